"""A stage that has a model write data, and what `herd synth` shares with it: who writes, and the questions that no row may hold.

made/data.jsonl      the rows: a training stage's source
made/card.md         model, licence, prompts, counts; made/dropped.jsonl says what went and why
"""

import contextlib
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from herd import __version__
from herd.config import dump
from herd.engine.open import open_engine
from herd.engine.remote import Remote
from herd.errors import ConfigError
from herd.evals.overlap import questions
from herd.evals.source import Places
from herd.evals.task import choose
from herd.life.recipe import Stage
from herd.life.work import Work
from herd.runs import Run
from herd.synth import run as synth
from herd.synth.recipe import Recipe
from herd.synth.writer import EngineWriter, RemoteWriter, Writer, check_schema_support
from herd.tools import ToolBox
from herd.tools.builtin import add_tools
from herd.weights.checkpoint import Checkpoint


def make(stage: Stage, settings: Recipe, work: Work) -> dict[str, Any]:
    """The rows that a model writes, or those that a kill left to be written."""
    if settings.url:
        raise ConfigError(f"stages.{stage.name}.url: a stage writes with a model on this machine; leave url out")
    recipe = msgspec.structs.replace(settings, folder=str(work.base))
    recipe.paths()
    check_schema_support()
    if stage.made.exists() and not (stage.made / "run.json").exists():  # killed before its folder was whole
        shutil.rmtree(stage.made)
    run = Run.of(stage.made, "synth", dump(recipe), other=str(stage.made), version=__version__, command=["herd", "run"])
    results = dict(run.record.results)
    if run.status != "done":
        with open_writer(recipe, work.find) as writer:
            results = synth.make(run, recipe, writer, held_back(recipe), show=work.show)
    if not results["written"]:
        raise ConfigError(f"stages.{stage.name}: no row was written; {stage.made / 'dropped.jsonl'} says why")
    return {**results, "again": f"herd synth {shlex.quote(str(run.recipe))} --out again"}


def held_back(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(task, id, text) of questions that no row may hold; what a recipe names must be here, for silence would look like clean data."""
    asked = recipe.decontaminate
    if not asked.tasks:
        return []
    places = Places(tuple(Path(recipe.folder) / name for name in asked.data))
    found, absent = questions(choose(list(asked.tasks)), places)
    if absent:
        raise ConfigError(f"decontaminate: {absent[0]}; name its folder in decontaminate.data, or leave the task out")
    return found


@contextlib.contextmanager
def open_writer(
    recipe: Recipe, find: Callable[[str], Checkpoint], key: str | None = None, **engine: Any
) -> Iterator[Writer]:
    """Who a recipe says writes: a model that `find` opens, or a URL with its `key`. `engine` are open_engine's own arguments."""
    if recipe.url:
        remote = Remote(recipe.url, recipe.model, key, per_minute=recipe.per_minute)
        yield RemoteWriter(remote, {"model": f"{recipe.model} at {recipe.url}"}, recipe.workers)
        return
    checkpoint = find(recipe.model)
    licence = checkpoint.about.get("general.license", b"")[12:].decode("utf-8", "replace")  # after type and length
    box = ToolBox()
    if "tools" in recipe.steps:
        add_tools(box, recipe.tools, None)
    with box, open_engine(checkpoint, **engine) as opened:
        card = {"model": f"{recipe.model} ({checkpoint.name})", "licence": licence, "backend": opened.backend.name}
        yield EngineWriter(opened, checkpoint.chat_format(), card, box)
