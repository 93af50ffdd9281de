"""The questions that are put to lm-evaluation-harness and to herd: parts of our tasks, their rows kept in tests/data/parity_rows.jsonl.gz."""

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from herd.evals.prompts import Item, chosen_shots, item
from herd.evals.source import Places, rows_of, shots_of
from herd.evals.task import Task, all_tasks
from herd.weights.checkpoint import Checkpoint

ROWS = Path(__file__).parents[1] / "data" / "parity_rows.jsonl.gz"
MMLU = tuple(name for name in all_tasks() if name.startswith("mmlu_") and name != "mmlu_pro")
MGSM = tuple(f"mgsm_{language}" for language in ("de", "en", "es", "fr", "th"))
REPLY = 64  # tokens

LAYERS = 6  # of the 30, where all of them would take too long


class Part(NamedTuple):
    """`rows` of each task after the `skipped` first, `shots` examples before each; on the whole model, or on its first LAYERS."""

    tasks: tuple[str, ...]
    rows: int
    shots: int = 0
    skipped: int = 0
    whole: bool = False


PARTS = {
    "arc_challenge": Part(("arc_challenge",), 500, whole=True),
    "piqa": Part(("piqa",), 500),
    "winogrande": Part(("winogrande",), 500),
    "mmlu": Part(MMLU, 9),
    "mmlu_5_shots": Part(MMLU[::3], 1, shots=5, skipped=9),
    "gsm8k": Part(("gsm8k",), 190, whole=True),
    "gsm8k_5_shots": Part(("gsm8k",), 10, shots=5, skipped=190, whole=True),
    "mgsm": Part(MGSM, 40),
}
GENERATED = ("gsm8k", "gsm8k_5_shots", "mgsm")


def kept(name: str) -> Task:
    """A task of ours whose rows, as its reader made them, stand in ROWS."""
    file = {"file": ROWS.name, "reader": "rows", "columns": {}, "rows": None, "sha256": "", "max_tokens": REPLY}
    return replace(all_tasks()[name], **file, where={"task": name, "use": "question"}, shots=0)


def items(part: str, count: int | None = None) -> list[Item]:
    """A part's questions in order, the first `count` of them."""
    names, rows, shots, skipped, _ = PARTS[part]
    made: list[Item] = []
    places = Places((ROWS.parent,))
    for name in names:
        task = kept(name)
        pool = shots_of(replace(task, shots_file=ROWS.name, where={"task": name, "use": "example"}), places)
        for row in rows_of(task, places)[skipped : skipped + rows]:
            examples = chosen_shots(task, pool, row, shots, 0) if shots else []
            made.append(item(task, row, examples, chat=False))
        if count is not None and len(made) >= count:
            return made[:count]
    return made


def shallow(checkpoint: Checkpoint) -> Checkpoint:
    """A model cut to its first LAYERS."""
    kept = {f"layers.{n}." for n in range(LAYERS)}
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith("layers.") or any(map(name.startswith, kept))
    }
    return dataclasses.replace(
        checkpoint, config=dataclasses.replace(checkpoint.config, layers=LAYERS), tensors=tensors
    )


def fingerprint(one: Item) -> str:
    """What was asked, in 16 hexadecimal digits."""
    return digest("\x00".join((*one.contexts, *one.continuations, *one.stop)))


def digest(text: str) -> str:
    """16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
