"""The last stage: a model folder that `herd chat` and `herd serve` open, with its card, its licence and its measured figures.

made/config.json, model.safetensors, tokenizer.json, ...   as Hugging Face lays them out
made/README.md      the card: what it is for, how it was made, figures with intervals, limits
made/LICENSE        what the recipe names
made/safety.toml    the Shield's policy: herd serve FOLDER --safety FOLDER/safety.toml
"""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from herd import __version__
from herd.atomic import atomic_file
from herd.config import dump
from herd.life.recipe import Stage
from herd.life.work import Work
from herd.report import number
from herd.safety.policy import read_policy
from herd.weights.convert import convert


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """`model` as a folder called `title`, with the SPDX name `licence` and its text `licence_file`; `about`, `limits` and `data` stand in the card."""

    model: str
    title: str
    licence: str
    licence_file: str
    about: str
    limits: str
    data: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    policy: str = "block"  # annotate, block or a TOML file

    def check(self) -> "Package":
        """The settings; ConfigError for a policy that cannot be."""
        read_policy(self.policy)
        return self


def make(stage: Stage, settings: Package, work: Work) -> dict[str, Any]:
    """The folder."""
    checkpoint = work.find(settings.model)
    if not stage.made.exists():
        convert(checkpoint, stage.made, "hf", progress=work.show)
    with atomic_file(stage.made / "LICENSE") as temporary:
        shutil.copyfile(settings.licence_file, temporary)
    with atomic_file(stage.made / "safety.toml") as temporary:
        temporary.write_text(dump(read_policy(settings.policy)), "utf-8")
    with atomic_file(stage.made / "README.md") as temporary:
        temporary.write_text("\n".join(_card(settings, work, checkpoint.config.parameters)) + "\n", "utf-8")
    size = sum(path.stat().st_size for path in stage.made.iterdir())
    command = ["herd", "convert", settings.model, "again", "--to", "hf"]
    return {"bytes": size, "again": shlex.join(command), "talk": shlex.join(["herd", "chat", str(stage.made)])}


def _card(settings: Package, work: Work, parameters: int) -> Iterator[str]:
    yield "---"
    yield f"license: {settings.licence}"
    yield "language:"
    yield from (f"- {one}" for one in settings.languages)
    yield "library_name: llama-herd"
    yield "---"
    yield f"# {settings.title}"
    yield ""
    yield f"{settings.about} {parameters:,} parameters, Llama 3.1's architecture and dialog format. Made with herd {__version__}."
    yield ""
    yield f"**Limits.** {settings.limits}"
    yield ""
    yield "## How it was made"
    yield ""
    yield "| stage | kind | tokens | loss | minutes |"
    yield "|---|---|---|---|---|"
    for name, mark in work.done.items():
        results = mark["results"]
        yield f"| {name} | {mark['kind']} | {number(results.get('tokens'))} | {number(results.get('loss'))} | {mark['seconds'] / 60:.1f} |"
    yield ""
    yield from (f"- Data: {one}" for one in settings.data)
    yield from _figures(work)
    yield ""
    yield "## Safety"
    yield ""
    yield "The model has had no safety training of its own. Serve it with the policy beside it: `herd serve FOLDER --safety FOLDER/safety.toml`."


def _figures(work: Work) -> Iterator[str]:
    """What the evaluation stages before this one measured."""
    for mark in work.done.values():
        if mark["kind"] != "evals":
            continue
        yield ""
        yield "## Figures, with 95% intervals"
        yield ""
        yield "| model | task | metric | value | low | high | items |"
        yield "|---|---|---|---|---|---|---|"
        for model, figures in mark["results"]["figures"].items():
            for one in figures:
                cells = (number(one[key]) for key in ("value", "low", "high", "items"))
                yield f"| {model} | {one['task']} | {one['metric']} | {' | '.join(cells)} |"


def folder_of(stages: list[Stage]) -> Path | None:
    """The model folder that a recipe ends with."""
    return next((stage.made for stage in reversed(stages) if stage.kind == "package"), None)
