"""A training step beside transformers' Trainer and TRL's: the same model, texts, batch, length, dtype and threads.

    python benchmarks/train.py [--threads 2] [--rounds 3] [--steps 3] [--dtype float32] [--only herd,transformers]

SmolLM2-135M, two rows of 512 tokens, all weights learn, fused AdamW on all sides. Each contender is a process of its own; rounds take turns, and
a round's first step (which makes the optimizer's state, and compiles) does not count. Memory is the most that the process held in
the steps that count, less what it held before the model was there and less weights and optimizer (12 bytes a parameter).
DPO: two pairs of 256 tokens an answer, reference log-probabilities computed before. `--only` takes names as printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS, LENGTH = 2, 512
Steps = Callable[[], None]


def resident(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024


class Clock:
    """Seconds of each step, and the most memory from the second on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def begin(self) -> None:
        """A step begins."""
        if len(self.seconds) == 1:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM from here
        self._begun = time.perf_counter()

    def end(self) -> None:
        """It ended."""
        self.seconds.append(time.perf_counter() - self._begun)


def herd(folder: Path, dtype: str, steps: int, objective: str, clock: Clock) -> int:
    """Parameters; herd's trainer."""
    import torch

    from herd.train.open import make_trainer, open_recipe
    from herd.train.recipe import Batch, Data, Model, Recipe, Schedule, Source
    from herd.weights.open import open_checkpoint

    kind = "pairs" if objective == "dpo" else "text"
    recipe = Recipe(
        objective=objective, model=Model(start="hf", dtype=dtype),  # type: ignore[arg-type]
        data=Data(sources=(Source(path=f"{kind}.jsonl", kind=kind),), length=LENGTH),  # type: ignore[arg-type]
        batch=Batch(tokens=ROWS * LENGTH, rows=ROWS), schedule=Schedule(steps=steps, peak=1e-5),
    )  # fmt: skip

    def find(name: str) -> Any:
        return open_checkpoint(folder / name)

    torch.manual_seed(0)
    trainer = make_trainer(open_recipe(recipe, folder, find), find, None, lambda **_: None)
    for _ in range(steps):
        clock.begin()
        trainer.step()
        clock.end()
    return sum(p.numel() for p in trainer.model.parameters())


def theirs(folder: Path, dtype: str, steps: int, objective: str, clock: Clock, *, compiled: bool) -> int:
    """Parameters; transformers' Trainer, or TRL's for DPO."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end()

    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    settings = {
        "output_dir": str(folder / "out"), "max_steps": steps, "per_device_train_batch_size": ROWS, "optim": "adamw_torch_fused",
        "bf16": dtype == "bfloat16", "torch_compile": compiled, "use_cpu": True, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if objective == "dpo":
        from trl import DPOConfig, DPOTrainer

        pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        config = DPOConfig(
            **settings, precompute_ref_log_probs=True, max_length=LENGTH // 2, gradient_checkpointing=False
        )
        trainer: Any = DPOTrainer(
            model, args=config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, callbacks=[Watch()]
        )
    else:
        texts = [json.loads(line)["text"] for line in (folder / "text.jsonl").read_text().splitlines()]
        ids = [i for text in texts for i in tokenizer(text)["input_ids"]]
        rows = [ids[i : i + LENGTH] for i in range(0, len(ids) - LENGTH, LENGTH)]
        data = Dataset.from_list([{"input_ids": row, "labels": row} for row in rows])
        trainer = Trainer(model, TrainingArguments(**settings), train_dataset=data, callbacks=[Watch()])
    trainer.train()
    return sum(p.numel() for p in model.parameters())


CONTENDERS: dict[str, tuple[str, Callable[..., int]]] = {
    "herd": ("next-token", herd),
    "transformers": ("next-token", lambda *a: theirs(*a, compiled=False)),
    "transformers compiled": ("next-token", lambda *a: theirs(*a, compiled=True)),
    "herd DPO": ("dpo", herd),
    "TRL DPO": ("dpo", lambda *a: theirs(*a, compiled=False)),
}


def work(name: str, folder: Path, dtype: str, steps: int, threads: int) -> None:
    """One contender's steps in this process; its figures as a line of JSON."""
    import torch

    torch.set_num_threads(threads)
    before = resident("VmRSS")
    clock = Clock()
    objective, contender = CONTENDERS[name]
    count = contender(folder, dtype, steps + 1, objective, clock)
    above = resident("VmHWM") - before - 12 * count
    print(json.dumps({"seconds": clock.seconds[1:], "above": above}))


def prepare(folder: Path) -> None:
    """The model in Hugging Face's files, texts and pairs."""
    from herd.cli.common import open_model
    from herd.weights.convert import convert

    convert(open_model("smollm2-135m"), folder / "hf", "hf", "F32")
    words = Path("recipes/data/tiny/wikitext.txt").read_text("utf-8").split()
    texts = [" ".join(words[i : i + 400]) for i in range(0, 20_000, 400)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pairs = [
        {"prompt": text[:200], "chosen": text[200:1000], "rejected": text[1000:1800]}
        for text in texts
        if len(text) > 1800
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--worker")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.folder, args.dtype, args.steps, args.threads)
        return
    names = args.only.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    above: dict[str, list[int]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for _ in range(args.rounds):
            for name in names:
                words = ["--worker", name, "--folder", scratch, "--dtype", args.dtype, "--steps", str(args.steps)]
                done = subprocess.run(
                    [sys.executable, __file__, *words, "--threads", str(args.threads)], capture_output=True, text=True,
                    env={**os.environ, "OMP_NUM_THREADS": str(args.threads)}, check=False,
                )  # fmt: skip
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr[-2000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                seconds[name] += found["seconds"]
                above[name].append(found["above"])
    print(
        f"{args.dtype}, {args.threads} threads, {ROWS} x {LENGTH} tokens a step, median of {args.rounds * args.steps}\n"
    )
    print("| | tokens/s | MB above weights and optimizer |\n|---|---|---|")
    for name in names:
        rate = ROWS * LENGTH / statistics.median(seconds[name])
        print(f"| {name} | {rate:,.0f} | {statistics.median(above[name]) / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
