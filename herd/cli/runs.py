"""`herd runs`: what long work is here, how far it is, and several side by side."""

import time
from pathlib import Path

import click

from herd.cli.common import PATH


@click.command(name="runs")
@click.argument("folders", nargs=-1, type=PATH)
def command(folders: tuple[Path, ...]) -> None:
    """List the runs in a folder (default: this one), or compare the results of several RUN folders.

    \b
    Examples:
      herd runs
      herd runs runs/first runs/second
    """
    from rich.console import Console
    from rich.table import Table

    from herd.errors import ConfigError
    from herd.report import number
    from herd.runs import Run, differences, found

    console = Console()
    if len(folders) > 1:
        runs = [Run.open(folder) for folder in folders]
        table = Table("result", *(str(folder) for folder in folders))
        for name, values in differences(runs).items():
            table.add_row(name, *map(number, values))
        console.print(table)
        return
    if folders and not folders[0].is_dir():
        raise ConfigError(f"{folders[0]}: no such folder; give one that runs are in")
    runs = found(folders[0] if folders else Path())
    if not runs:
        console.print(f"no runs in {folders[0] if folders else 'this folder'}")
        return
    table = Table("run", "kind", "status", "started", "took", "results")
    for run in runs:
        record = run.record
        took = "" if record.ended is None else f"{record.ended - record.started:,.0f} s"
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started))
        shown = ", ".join(f"{name} {number(value)}" for name, value in list(record.results.items())[:3])
        table.add_row(str(run.folder), record.kind, run.status, started, took, record.failure or shown)
    console.print(table)
