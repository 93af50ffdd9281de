"""Have a model write data by a recipe. The same command goes on after Ctrl-C or a kill, to the same bytes.

\b
Examples:
  herd synth recipes/synth-questions.toml
  herd synth recipes/synth-questions.toml --out try --set rows=20 --set model=model.gguf
  herd synth recipes/synth-code.toml --set url=http://127.0.0.1:8000/v1 --set model=NAME
  herd synth runs/synth-questions               # go on where it was
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd import __version__
from herd.cli.common import PATH, context_option, engine_options, open_model, settings_of, show_progress
from herd.errors import ConfigError

if TYPE_CHECKING:
    from herd.synth.recipe import Recipe


@click.command(help=__doc__)
@click.argument("path", type=PATH, metavar="RECIPE | RUN")
@click.option("--out", type=PATH, help="The run's folder. Default: runs/ and the recipe's name.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: options.code.attempts=5.")
@context_option
@engine_options
def command(path: Path, out: Path | None, changes: tuple[str, ...], cache_tokens: int | None, **engine: Any) -> None:
    from herd.life.synthesis import held_back, open_writer
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
    questions, key = held_back(recipe), os.environ.get("OPENAI_API_KEY")
    engine["cache_tokens"] = cache_tokens
    with open_writer(recipe, open_model, key, **engine) as writer, show_progress() as show:
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
