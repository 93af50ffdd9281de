"""Have a model write data by a recipe. The same command goes on after Ctrl-C or a kill, to the same bytes.

\b
Examples:
  herd synth recipes/synth-questions.toml
  herd synth recipes/synth-questions.toml --out try --set rows=20 --set model=model.gguf
  herd synth recipes/synth-code.toml --set url=http://127.0.0.1:8000/v1 --set model=NAME
  herd synth runs/synth-questions               # go on where it was
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd import __version__
from herd.cli.common import PATH, context_option, engine_options, open_model, open_tools, settings_of, show_progress
from herd.errors import ConfigError

if TYPE_CHECKING:
    from herd.synth.recipe import Recipe
    from herd.synth.writer import Writer


@click.command(help=__doc__)
@click.argument("path", type=PATH, metavar="RECIPE | RUN")
@click.option("--out", type=PATH, help="The run's folder. Default: runs/ and the recipe's name.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: options.code.attempts=5.")
@context_option
@engine_options
def command(path: Path, out: Path | None, changes: tuple[str, ...], cache_tokens: int | None, **engine: Any) -> None:
    from herd.runs import Run
    from herd.synth.run import make, prompts_of
    from herd.synth.writer import check_schema_support

    run = None
    if path.is_dir():
        if changes or out:
            raise ConfigError(f"{path}: a run goes on with the recipe it was made with; leave --set and --out out")
        run = Run.open(path, "synth")
        recipe = _read(run.recipe, (), None)
    else:
        recipe = _read(path, changes, str(path.parent.resolve()))
    check_schema_support()
    prompts_of(recipe)
    recipe.paths()
    questions = _questions(recipe)
    with _writer(recipe, cache_tokens, engine) as writer, show_progress() as show:
        run = run or _open_run(recipe, out or Path("runs") / path.stem)  # last: what is not there is told before
        results = make(run, recipe, writer, questions, show=show)
    for name, value in results.items():
        print(f"{name:32} {value:>12,}")
    print(f"{run.folder}/data.jsonl: {results['written']:,} rows; what went and why: {run.folder}/dropped.jsonl")


def _read(path: Path, changes: tuple[str, ...], folder: str | None) -> "Recipe":
    from herd.config import read
    from herd.synth.recipe import Recipe

    if not path.exists():
        raise ConfigError(f"{path}: no such recipe; give a .toml file, or a run's folder to go on with it")
    flags = settings_of(changes, "rows=20")
    return read(Recipe, path, flags, values={} if folder is None else {"folder": folder}).check()


def _open_run(recipe: "Recipe", out: Path) -> Any:
    from herd.config import dump
    from herd.runs import Run

    other = f"{out}: holds a run of another recipe; name another folder with --out"
    return Run.of(out, "synth", dump(recipe), other=other, version=__version__, command=sys.argv)


def _questions(recipe: "Recipe") -> list[tuple[str, str, str]]:
    """The questions that no row may hold; what a recipe names must be here, for silence would look like clean data."""
    from herd.evals.overlap import questions
    from herd.evals.source import Places
    from herd.evals.task import choose

    asked = recipe.decontaminate
    if not asked.tasks:
        return []
    found, absent = questions(
        choose(list(asked.tasks)), Places(tuple(Path(recipe.folder) / name for name in asked.data))
    )
    if absent:
        raise ConfigError(f"decontaminate: {absent[0]}; name its folder in decontaminate.data, or leave the task out")
    return found


@contextlib.contextmanager
def _writer(recipe: "Recipe", cache_tokens: int | None, engine: dict[str, Any]) -> "Iterator[Writer]":
    from herd.engine.open import open_engine
    from herd.engine.remote import Remote
    from herd.synth.writer import EngineWriter, RemoteWriter

    if recipe.url:
        remote = Remote(recipe.url, recipe.model, os.environ.get("OPENAI_API_KEY"), per_minute=recipe.per_minute)
        yield RemoteWriter(remote, {"model": f"{recipe.model} at {recipe.url}"}, recipe.workers)
        return
    checkpoint = open_model(recipe.model)
    licence = checkpoint.about.get("general.license", b"")[12:].decode("utf-8", "replace")  # after type and length
    names = ",".join(recipe.tools) if "tools" in recipe.steps else None
    with open_tools(names, None, None) as box, open_engine(checkpoint, cache_tokens=cache_tokens, **engine) as opened:
        card = {"model": f"{recipe.model} ({checkpoint.name})", "licence": licence, "backend": opened.backend.name}
        yield EngineWriter(opened, checkpoint.chat_format(), card, box)
