"""Evaluation beside lm-evaluation-harness's HF class: the same questions, the same weights in float32, in turn, medians.

    make peer-lm-eval bench-evals
    .venv/peers/lm-eval/bin/python benchmarks/evals.py smollm2-135m --tasks arc_challenge,mmlu_anatomy --shots 5 --data FOLDER

herd computes in float32 (torch, and its own kernels), and beside that in the model's own format.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from herd.cli.common import open_model
from herd.engine.open import open_engine
from herd.evals.prompts import Item, chosen_shots, item
from herd.evals.source import Places, rows_of, shots_of
from herd.evals.target import EngineTarget
from herd.evals.task import all_tasks
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint

Runner = Callable[[Sequence[Item]], list[tuple[float, ...]]]


def questions(names: Sequence[str], places: Places, rows: int, shots: int) -> dict[str, list[Item]]:
    """Items of each task, with `shots` of its examples before them."""
    made = {}
    for name in names:
        task = all_tasks()[name]
        pool = shots_of(task, places) if shots else []
        made[name] = [
            item(task, row, chosen_shots(task, pool, row, shots, 0) if pool else [], chat=False)
            for row in rows_of(task, places)[:rows]
        ]
    return made


def harness(folder: Path, batch: int) -> Runner:
    """lm-evaluation-harness's own class."""
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch)

    def run(items: Sequence[Item]) -> list[tuple[float, ...]]:
        if items[0].continuations:
            asked = [Instance("loglikelihood", {}, pair, 0) for one in items for pair in one.pairs]
            found = iter(model.loglikelihood(asked, disable_tqdm=True))
            return [tuple(next(found)[0] for _ in one.pairs) for one in items]
        settings: dict[str, Any] = {"do_sample": False, "max_gen_toks": items[0].task.max_tokens}
        asked = [
            Instance("generate_until", {}, (one.contexts[0], {**settings, "until": list(one.stop)}), 0) for one in items
        ]
        model.generate_until(asked, disable_tqdm=True)
        return []

    return run


def ours(target: EngineTarget) -> Runner:
    """herd's runner."""

    def run(items: Sequence[Item]) -> list[tuple[float, ...]]:
        found = {answer.item.id: answer.logprobs for answer in target.answer(items)}
        return [found[one.id] for one in items] if items[0].continuations else []

    return run


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tasks", default="small_arc,small_mmlu,small_gsm8k")
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=1, help="The harness's; on a CPU 1 wastes no padding.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work = questions(args.tasks.split(","), Places(tuple(args.data)), args.rows, args.shots)
    checkpoint = open_model(args.model)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        plain = Path(folder) / "f32"
        convert(checkpoint, plain, "hf", "F32")
        kinds = {
            "herd torch F32": ("torch", plain, "float32"),
            "herd F32": ("native", plain, None),
            "herd": ("native", None, None),
        }
        runners = {"lm-eval HF F32": harness(plain, args.batch)}
        for name, (backend, path, dtype) in kinds.items():
            opened = open_checkpoint(path) if path else checkpoint
            engine = stack.enter_context(
                open_engine(opened, backend, dtype=dtype, threads=args.threads, cache_tokens=16_384)
            )
            runners[name] = ours(EngineTarget(name, engine, bos=False))
        print(f"{args.threads} threads, {args.rows} rows a task, {args.shots} shots, median of {args.rounds}")
        for task, items in work.items():
            measure(task, items, runners, args.rounds)


def measure(task: str, items: Sequence[Item], runners: dict[str, Runner], rounds: int) -> None:
    """Time the runners in turn on the same questions; float32 must agree."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        values = {}
        for name, run in runners.items():
            begun = time.perf_counter()
            values[name] = run(items)
            seconds[name].append(time.perf_counter() - begun)
    first = statistics.median(seconds["lm-eval HF F32"])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        pairs = zip(values["lm-eval HF F32"], values[name], strict=True)
        off = max((abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)), default=0.0)
        print(f"{task:16} {name:16} {middle:7.2f} s  {first / middle:5.1f}x  largest difference {off:.4f}", flush=True)


if __name__ == "__main__":
    main()
