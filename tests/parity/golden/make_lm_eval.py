"""What lm-evaluation-harness 0.4.13's HF class (`make peer-lm-eval`) says to questions of our tasks on SmolLM2-135M in float32.

herd convert smollm2-135m /tmp/smollm2 --to hf --format F32
.venv/peers/lm-eval/bin/python tests/parity/golden/make_lm_eval.py /tmp/smollm2 [--rows FOLDER]

`--rows` makes tests/data/parity_rows.jsonl.gz anew from the tasks' data in FOLDER. A part that lm_eval.json has already is not asked again.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessorList

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from herd.evals.prompts import Item, item  # noqa: E402
from herd.evals.source import Places, rows_of, shots_of  # noqa: E402
from herd.evals.task import all_tasks  # noqa: E402
from tests.parity.harness import GENERATED, LAYERS, PARTS, REPLY, ROWS, digest, fingerprint, items  # noqa: E402

SMALL = {"small_arc": 12, "small_mmlu": 12}
NEAR = 2e-3  # nats between the two likeliest tokens, below which either may come first


class Watched(HFLM):  # type: ignore[misc]
    """The harness's class, which also keeps how far apart the two likeliest tokens were at each step, by a reply's tokens."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.margins: dict[tuple[int, ...], list[float]] = {}

    def _model_generate(self, context: torch.Tensor, **settings: Any) -> torch.Tensor:
        steps: list[torch.Tensor] = []

        def note(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            best = scores.topk(2).values
            steps.append(best[:, 0] - best[:, 1])
            return scores

        made = super()._model_generate(context, logits_processor=LogitsProcessorList([note]), **settings)
        for row, margins in zip(made[:, context.shape[1] :].tolist(), torch.stack(steps, 1).tolist(), strict=True):
            self.margins[tuple(row)] = margins
        return made

    def before_tie(self, reply: str) -> str | None:
        """What a reply has before its first near tie, None if it has none."""
        for tokens, margins in self.margins.items():
            if self.tok_decode(list(tokens)).startswith(reply):
                texts = (self.tok_decode(list(tokens[:n])) for n, margin in enumerate(margins) if margin <= NEAR)
                return next((text for text in texts if len(text) < max(1, len(reply))), None)
        raise ValueError(f"no such reply: {reply!r}")


def scored(model: HFLM, asked: Sequence[Item]) -> list[list[float]]:
    """Log-likelihoods of each item's continuations."""
    pairs = [pair for one in asked for pair in one.pairs]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    values = iter(model.loglikelihood(requests, disable_tqdm=True))
    return [[round(next(values)[0], 5) for _ in one.continuations] for one in asked]


def replied(model: Watched, asked: Sequence[Item]) -> list[list[Any]]:
    """Each item's reply: its digest, its last 12 characters (to read), and the length and digest of what comes before a near tie."""
    settings = {"do_sample": False, "max_gen_toks": REPLY}
    requests = [
        Instance("generate_until", {}, (one.contexts[0], {**settings, "until": list(one.stop)}), i)
        for i, one in enumerate(asked)
    ]
    found = []
    for reply in model.generate_until(requests, disable_tqdm=True):
        before = model.before_tie(reply)
        found.append([digest(reply), reply[-12:], *((len(before), digest(before)) if before is not None else ())])
    return found


def keep_rows(folder: Path) -> None:
    """Write the rows that the parts need, as the tasks' readers make them."""
    places, lines, seen = Places((folder, folder.parent)), [], set()
    for names, rows, shots, skipped, _ in PARTS.values():
        for name in names:
            task = all_tasks()[name]
            uses = {"question": rows_of(task, places)[skipped : skipped + rows]}
            if shots:
                uses["example"] = shots_of(task, places)[:shots]
            for use, chosen in uses.items():
                lines += [
                    {"task": name, "use": use, **row} for row in chosen if (name, use, row["question"]) not in seen
                ]
                seen |= {(name, use, row["question"]) for row in chosen}
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    ROWS.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def small(model: HFLM) -> dict[str, Any]:
    """Tasks that come with herd."""
    golden: dict[str, Any] = {}
    for name, count in SMALL.items():
        task = all_tasks()[name]
        asked = [item(task, row, [], chat=False) for row in rows_of(task, Places())[:count]]
        golden[name] = dict(zip([one.id for one in asked], scored(model, asked), strict=True))
    pages = {row["id"]: row["page"] for row in rows_of(all_tasks()["small_text"], Places())[:2]}
    requests = [Instance("loglikelihood_rolling", {}, (page,), i) for i, page in enumerate(pages.values())]
    golden["small_text"] = dict(zip(pages, model.loglikelihood_rolling(requests, disable_tqdm=True), strict=True))
    return golden


def harness(model: str, batch: int, whole: bool = True) -> Watched:
    """The class on a model, or on its first LAYERS."""
    made = Watched(pretrained=model, dtype="float32", device="cpu", batch_size=batch)
    if not whole:
        made.model.model.layers = made.model.model.layers[:LAYERS]
        made.model.config.num_hidden_layers = LAYERS
    return made


def main() -> None:
    """Write lm_eval.json, part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.rows:
        keep_rows(args.rows)
    file = HERE / "lm_eval.json"
    golden = json.loads(file.read_text()) if file.exists() else {}
    for part in ("small", *PARTS):
        if part in golden or (part == "small" and "small_text" in golden):
            continue
        begun = time.monotonic()
        if part == "small":
            golden |= small(harness(args.model, 1))
        else:
            ask, batch = (replied, 32) if part in GENERATED else (scored, 1)
            asked = items(part)
            values = ask(harness(args.model, batch, PARTS[part].whole), asked)
            golden[part] = [[fingerprint(a), *v] for a, v in zip(asked, values, strict=True)]
        print(f"{part}: {time.monotonic() - begun:.0f} s", flush=True)
        lines = (f" {json.dumps(name)}: {laid(value)}" for name, value in golden.items())
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def laid(value: Any) -> str:
    """A part as JSON, a line an item."""
    rows = (
        [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
        if isinstance(value, dict)
        else map(json.dumps, value)
    )
    return (
        ("{}" if isinstance(value, dict) else "[]")[0]
        + "\n  "
        + ",\n  ".join(rows)
        + "\n "
        + ("}" if isinstance(value, dict) else "]")
    )


if __name__ == "__main__":
    main()
