"""Training as a run: a folder that is made once, holds everything, and goes on where it was."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import herd
from herd.atomic import atomic_folder
from herd.config import dump
from herd.errors import ConfigError
from herd.runs import Run, check_vacant
from herd.train.layout import Layout
from herd.train.lora import adapter_of
from herd.train.open import Find, Opened, make_trainer, open_recipe
from herd.train.recipe import BESIDE, Asked
from herd.train.samples import Corpus
from herd.train.tasks import Tasks
from herd.train.trainer import Trainer
from herd.weights.adapter import write_adapter
from herd.weights.dialog_files import write_dialog
from herd.weights.hf_config import config_to_hf
from herd.weights.sidecars import write_tokenizer

Show = Callable[[dict[str, Any]], None]


def make_run(opened: Opened, folder: Path, out: Path, command: list[str]) -> Run:
    """The folder of a new run, with what makes its checkpoints a model that others can open: whole, or not there."""
    check_vacant(out)
    with atomic_folder(out) as temporary:
        Run.create(temporary, "train", dump(opened.recipe), version=herd.__version__, command=command)
        (temporary / BESIDE).write_text(json.dumps({"folder": str(folder)}) + "\n")
        model = temporary / "model"
        model.mkdir()
        numbers = write_tokenizer(model, opened.tokenizer, opened.config.context)
        settings = {**config_to_hf(opened.config, "F32"), **numbers}
        (model / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        write_dialog(model, opened.dialog)
    return Run.open(out, "train")


def train(
    asked: Asked, out: Path, find: Find, show: Show, stop: Callable[[], bool], command: list[str]
) -> tuple[Path, bool]:
    """Train a recipe into `out`, or go on with a run; its folder, and whether it is done."""
    recipe, folder, run = asked
    if run is None and (out / "run.json").exists():
        raise ConfigError(
            f"{out}: holds a run already; go on with it: herd train {out}, or name another folder with --out"
        )
    layout = Layout.of(recipe.layout)
    layout.together()  # nobody makes the folder before all have looked whether it is there
    opened = open_recipe(recipe, folder, find, None if run is None else run.folder, layout)
    if run is not None and run.status == "done":
        raise ConfigError(f"{run.folder}: this run is done; talk with it: herd chat {run.folder}")
    if run is None and layout.first:
        run = make_run(opened, folder, out, command)
    layout.together()
    run = run or Run.open(out, "train")
    with run.working() if layout.first else contextlib.nullcontext():
        last: dict[str, Any] = {}

        def log(**values: Any) -> None:
            assert run is not None
            if layout.first:
                run.log(**values)
                show(values)
            last[f"{values['event']} {values.get('source', '')}".strip()] = values

        read: list[Corpus | Tasks] = [*opened.sources, *opened.validation, *opened.prompts, *opened.held_out]
        for source in read:
            log(event="source", source=source.name, samples=len(source), tokens=source.tokens, dropped=source.dropped)
        trainer = make_trainer(opened, find, run.folder, log, stop, layout)
        log(
            event="start",
            step=trainer.progress.step,
            steps=trainer.steps,
            dtype=str(trainer.dtype).removeprefix("torch."),
        )
        try:
            done = trainer.train()
            if done and (not recipe.validate_every or trainer.progress.step % recipe.validate_every):
                trainer.validate()
        finally:
            trainer.close()
        if done:
            _write_adapter(run.folder, opened, trainer, layout)
            if not layout.first:
                return run.folder, done
            run.finish(
                steps=trainer.progress.step, tokens=trainer.progress.tokens, loss=last.get("step", {}).get("loss"),
                **{
                    f"{key} {what}": value[what]
                    for key, value in last.items() if key.startswith("validation")
                    for what in ("loss", "reward") if what in value
                },
            )  # fmt: skip
    return run.folder, done


def _write_adapter(folder: Path, opened: Opened, trainer: Trainer, layout: Layout) -> None:
    """The adapters of a run that has some, as PEFT reads them, in RUN/adapter."""
    if opened.recipe.lora is None or (folder / "adapter").exists():
        return
    found = adapter_of(trainer.model)
    if not layout.first:
        return
    with atomic_folder(folder / "adapter") as temporary:
        write_adapter(temporary, found, opened.config.head_dim, opened.recipe.model.start or "")
