"""`herd eval`: run benchmarks on a model, a training run or a URL; compare two runs."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.common import PATH, engine_options, open_model, show_progress
from herd.cli.eval_contamination import contamination
from herd.cli.eval_judge import judge
from herd.errors import ConfigError

if TYPE_CHECKING:
    from herd.evals.run import Figure
    from herd.evals.target import Target


class _Default(click.Group):
    """`herd eval MODEL` is `herd eval run MODEL`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["list"] if args[0] == "--list" else ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Default, name="eval", no_args_is_help=True)
def command() -> None:
    """Run benchmarks and compare their figures.

    \b
    Examples:
      herd eval smollm2-135m --tasks small
      herd eval http://127.0.0.1:8000/v1 --model NAME --tasks gsm8k --data DIR
      herd eval compare RUN RUN
      herd eval judge RUN RUN --judge MODEL
      herd eval contamination RUN --corpus DIR
      herd eval list
    """


@command.command()
@click.argument("target")
@click.option("--tasks", "names", help="Names and groups, comma-separated: gsm8k,arc_challenge,mmlu. Default: small.")
@click.option("--meta", is_flag=True, help="As Meta evaluates its instruct models: --tasks meta --chat.")
@click.option("--task-file", "files", multiple=True, type=PATH, help="TOML files with tasks of your own.")
@click.option("--data", "folders", multiple=True, type=PATH, help="Folders in which tasks' files are looked for.")
@click.option("--hub", is_flag=True, help="Fetch what is not in a folder from Hugging Face.")
@click.option("--limit", type=int, help="Items a task.")
@click.option("--shots", type=int, help="Examples before each question, instead of the task's own number.")
@click.option("--seed", type=int, default=0, help="Above 0, examples are drawn instead of the first.")
@click.option("--chat/--text", "chat", default=False, help="Ask as turns of a dialog, in the model's chat format.")
@click.option("--system", default="", help="System message with --chat.")
@click.option("--bos/--no-bos", default=True, help="Start texts with the model's start token, if it has one.")
@click.option("--context", "cache_tokens", type=int, help="Tokens of context. Default: the model's, at most 8192.")
@click.option("--model", help="With a URL: the model's name there.")
@click.option("--out", type=PATH, help="The run's folder, resumed if it is there. Default: one below runs/.")
@click.option("--page", type=PATH, help="Also write the HTML page here. Default: report.html in the run's folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options
def run(
    target: str, names: str | None, meta: bool, files: tuple[Path, ...], folders: tuple[Path, ...], hub: bool, limit: int | None, shots: int | None,
    seed: int, chat: bool, system: str, bos: bool, cache_tokens: int | None, model: str | None, out: Path | None, page: Path | None,
    as_json: bool, **engine: Any,
) -> None:  # fmt: skip
    """Run --tasks on TARGET: a model's path or name, or the URL of an OpenAI-compatible server."""
    from herd.cli.common import models_home
    from herd.evals.compare import page as write_page
    from herd.evals.run import Settings, evaluate, start
    from herd.evals.source import Places
    from herd.evals.task import choose

    names, chat = names or ("meta" if meta else "small"), chat or meta
    tasks = choose([name.strip() for name in names.split(",") if name.strip()], files)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--data {folder}: no such folder")
    for name, value in (("--limit", limit), ("--shots", None if shots is None else shots + 1)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected a whole number, {1 if name == '--limit' else 0} or more")
    settings = Settings(limit=limit, shots=shots, seed=seed, system=system)
    places = Places(tuple(folders), models_home().parent / "data" if hub else None)
    opened, close = open_target(target, model, chat, bos, cache_tokens, engine)
    try:
        folder = (
            out
            or Path("runs")
            / f"eval-{opened.name.replace('/', '-').replace(':', '-')[:60].strip()}-{_short(names, limit, chat)}"
        )
        work = start(folder, opened, tasks, settings, sys.argv)
        with show_progress() as progress:
            figures = evaluate(opened, tasks, places, work, settings, progress)
    finally:
        close()
    if any(figure.value is not None for figure in figures):
        write_page(folder, figures, tasks, page or folder / "report.html")
    _print(figures, as_json, folder)


def _short(names: str, limit: int | None, chat: bool) -> str:
    import hashlib

    return hashlib.sha256(f"{names} {limit} {chat}".encode()).hexdigest()[:8]


def open_target(
    name: str, model: str | None, chat: bool, bos: bool, cache_tokens: int | None, engine: dict[str, Any]
) -> "tuple[Target, Any]":
    from herd.evals.target import UrlTarget, engine_target

    if name.startswith(("http://", "https://")):
        if model is None:
            raise ConfigError("a URL needs --model with the model's name there")
        return UrlTarget(name, model, os.environ.get("OPENAI_API_KEY"), chat), lambda: None
    target = engine_target(name, open_model(name), chat, bos, cache_tokens=cache_tokens, **engine)
    return target, target.engine.close


def _print(figures: "list[Figure]", as_json: bool, folder: Path) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(figures))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", "value", "95%", "items", "failed", "seconds", box=None, pad_edge=False)
    for f in figures:
        if f.value is None:
            table.add_row(f.task, f.metric, "", f"not run: {f.absent}")
            continue
        bounds = "" if f.low is None else f"{f.low:.4f} to {f.high:.4f}"
        table.add_row(
            f.task, f.metric, f"{f.value:.4f}", bounds, str(f.items), str(f.failed or ""), f"{f.seconds:,.1f}"
        )
    Console(width=160).print(table)
    click.echo(f"items, page and record: {folder}", err=True)


@command.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
def compare(first: Path, second: Path) -> None:
    """Is the run SECOND better than FIRST? Paired on the items of both."""
    from rich.console import Console
    from rich.table import Table

    from herd.evals.compare import compared

    table = Table(
        "task",
        "second - first",
        "95%",
        "better",
        "worse",
        "items",
        "McNemar p",
        "items that would tell",
        box=None,
        pad_edge=False,
    )
    for name, pair in compared(first, second).items():
        gap = pair.difference
        table.add_row(
            name, f"{gap.value:+.4f}", f"{gap.low:+.4f} to {gap.high:+.4f}", str(pair.better), str(pair.worse), str(pair.items),
            "" if pair.p_value is None else f"{pair.p_value:.3g}", "" if pair.items_needed is None else f"{pair.items_needed:,}",
        )  # fmt: skip
    Console(width=160).print(table)


@command.command("list")
@click.option("--data", "folders", multiple=True, type=PATH, help="Folders in which tasks' files are looked for.")
@click.option("--groups", "by_group", is_flag=True, help="Groups and how many tasks they have.")
def list_tasks(folders: tuple[Path, ...], by_group: bool) -> None:
    """All tasks, where they come from, and whether their data is here."""
    from herd.evals.source import Places, present
    from herd.evals.task import all_tasks, groups

    if by_group:
        for name, members in groups().items():
            click.echo(f"{name}: {len(members)} tasks")
        return
    tasks = list(all_tasks().values())
    here = present(tasks, Places(tuple(folders)))
    for task in tasks:
        click.echo(
            f"{task.name}  {task.kind}  {task.source}  {task.licence}  {'here' if here[task.name] else 'data absent: ' + (task.file or task.hub)}"
        )
    click.echo(
        f"{len(tasks)} tasks from {len({task.source for task in tasks})} sources, {sum(here.values())} with data here",
        err=True,
    )


command.add_command(contamination)
command.add_command(judge)
