"""`herd eval judge`: which of two runs has the better replies, by a judge."""

import sys
from pathlib import Path
from typing import Any

import click

from herd.cli.common import PATH, engine_options, show_progress
from herd.errors import ConfigError


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--judge", "name", required=True, help="Who judges: a model's path or name, or a server's URL.")
@click.option("--judge-model", help="With a URL: the model's name there.")
@click.option("--task-file", "files", multiple=True, type=PATH, help="TOML files with tasks of your own.")
@click.option("--limit", type=int, help="Questions a task.")
@click.option("--max-tokens", type=int, default=1024, help="At most this many tokens a verdict.")
@click.option(
    "--context", "cache_tokens", type=int, help="Tokens of the judge's context. Default: the model's, at most 8192."
)
@click.option("--out", type=PATH, help="The judging's folder, resumed if it is there. Default: one below runs/.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options
def judge(
    first: Path, second: Path, name: str, judge_model: str | None, files: tuple[Path, ...], limit: int | None, max_tokens: int, cache_tokens: int | None,
    out: Path | None, as_json: bool, **engine: Any,
) -> None:  # fmt: skip
    """Compare the replies of the runs FIRST and SECOND to open questions (mt_bench, arena_hard), each pair in both orders.

    \b
    Example:
      herd eval MODEL --tasks mt_bench --data DIR --out runs/new
      herd eval judge runs/new runs/old --judge URL --judge-model NAME
    """
    from herd.cli.eval import open_target
    from herd.evals.judge import page
    from herd.evals.judging import compare, start
    from herd.evals.task import known_tasks

    if limit is not None and limit < 1:
        raise ConfigError("--limit: expected a whole number, 1 or more")
    if max_tokens < 1:
        raise ConfigError("--max-tokens: expected a whole number, 1 or more")
    opened, close = open_target(name, judge_model, True, True, cache_tokens, engine)
    try:
        folder = out or Path("runs") / f"judge-{first.name}-{second.name}"[:80]
        run = start(folder, opened, first, second, limit, max_tokens, sys.argv)
        with show_progress() as progress:
            found, results = compare(opened, first, second, run, limit, max_tokens, progress, known_tasks(files))
    finally:
        close()
    page(first, second, found, results, folder / "report.html")
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "first wins", "95%", "wins", "equal", "losses", "orders agree", "first place", "unreadable", "failed", box=None, pad_edge=False)  # fmt: skip
    for one in found:
        table.add_row(
            one.task, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", str(one.wins), str(one.equal), str(one.losses), f"{one.agree:.0%}",
            f"{one.first_place:.0%}", str(one.unreadable or ""), str(one.failed or ""),
        )  # fmt: skip
    Console(width=160).print(table)
    click.echo(f"verdicts, page and record: {folder}", err=True)
