"""The whole life of a model by one recipe: corpus, tokenizer, training in its phases, measuring, a model folder, a report.

A stage is made once for what it is made from: the same command goes on after Ctrl-C or a kill, and after a change of the recipe only what
changed is made anew.

\b
Examples:
  herd run recipes/life-small.toml
  herd run recipes/life-small.toml --set stages.dpo.preference.beta=0.3   # from dpo on
  herd run recipes/life-405b.toml --dry-run                               # what Llama 3's largest would take
"""

import sys
from pathlib import Path

import click

from herd.cli.common import PATH, open_model, settings_of, show_progress, warn
from herd.cli.train import Lines, Stop
from herd.errors import MissingDependencyError


@click.command(help=__doc__)
@click.argument("recipe", type=PATH)
@click.option("--out", type=PATH, help="The run's folder. Default: runs/ and the recipe's name.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: stages.sft.schedule.epochs=2."
)
@click.option("--dry-run", is_flag=True, help="Check everything, show the stages and what they take, and stop.")
def command(recipe: Path, out: Path | None, changes: tuple[str, ...], dry_run: bool) -> None:
    try:
        from herd.life.recipe import load, stages
        from herd.life.run import live
        from herd.life.work import StoppedError
    except ImportError as error:
        raise MissingDependencyError(
            f"herd run needs {error.name}; install it: pip install 'llama-herd[torch,data]'"
        ) from error
    asked, base = load(recipe, settings_of(changes, "schedule.steps=20")), recipe.parent.resolve()
    folder = out or Path("runs") / recipe.stem
    if dry_run:
        _table([*stages(asked, base, folder)])
        return
    try:
        with show_progress() as show:
            report = live(asked, base, folder, open_model, sys.argv, show=show, step=Lines(), say=warn, stop=Stop())
    except StoppedError as error:
        print(f"{error}; the same command goes on")
        sys.exit(130)
    print(f"{report}: done")


def _table(asked: list) -> None:  # type: ignore[type-arg]
    from rich.console import Console
    from rich.table import Table

    from herd.life.dry_run import row
    from herd.report import number

    rows = [row(stage) for stage in asked]
    columns = list(dict.fromkeys(name for one in rows for name in one))
    table = Table(*columns, box=None, pad_edge=False)
    for one in rows:
        table.add_row(*(number(one.get(name), 3) for name in columns))
    Console(width=200).print(table)
