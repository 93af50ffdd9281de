"""`herd eval contamination`: how much of benchmarks stands in a corpus, and what scores are without that."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.common import PATH, models_home, show_progress
from herd.errors import ConfigError

if TYPE_CHECKING:
    from herd.data.overlap import Match
    from herd.evals.contamination import Split


@click.command()
@click.argument("run", type=PATH, required=False)
@click.option(
    "--corpus", "corpus", multiple=True, required=True, type=PATH, help="Files or folders: text, JSON lines, Parquet."
)
@click.option("--tasks", "names", help="Names and groups, comma-separated. Default: those of RUN.")
@click.option("--task-file", "files", multiple=True, type=PATH, help="TOML files with tasks of your own.")
@click.option("--data", "folders", multiple=True, type=PATH, help="Folders in which tasks' files are looked for.")
@click.option("--hub", is_flag=True, help="Fetch what is not in a folder from Hugging Face.")
@click.option(
    "--page", type=PATH, help="Write an HTML page with the curves here. Default with RUN: contamination.html in it."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every question's share and longest run.")
def contamination(
    run: Path | None, corpus: tuple[Path, ...], names: str | None, files: tuple[Path, ...], folders: tuple[Path, ...], hub: bool,
    page: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Look for the questions of --tasks, or of an evaluation's folder RUN, in --corpus.

    With RUN, scores of clean and contaminated questions stand apart, at the threshold where the gain is largest.
    """
    from herd.data.overlap import Index
    from herd.evals import contamination as search
    from herd.evals.corpus import documents_of, files_of
    from herd.evals.overlap import questions, report, scores_of
    from herd.evals.source import Places
    from herd.evals.task import choose

    if run is None and names is None:
        raise ConfigError("name a run's folder, or --tasks")
    scores = scores_of(run) if run is not None else {}
    wanted = [n.strip() for n in names.split(",") if n.strip()] if names else list(scores)
    tasks = choose(wanted, files)
    texts, absent = questions(tasks, Places(tuple(folders), models_home().parent / "data" if hub else None))
    for reason in absent:
        click.echo(f"not looked for: {reason}", err=True)
    index = Index(texts)
    parts = files_of(corpus)
    with show_progress() as progress:
        done, total = 0, sum(path.stat().st_size for path in parts)
        for path in parts:
            for size in index.scan(documents_of(path)):
                done += size
                progress(path.name, min(done, total), total)  # packed files hold more than they weigh
    matches = index.matches()
    chosen = {
        task: search.best([search.split(found, scores[task], t) for t in search.THRESHOLDS])
        for task, found in matches.items() if task in scores
    }  # fmt: skip
    page = page or (run / "contamination.html" if run is not None else None)
    if page is not None:
        report(matches, scores, chosen, [str(path) for path in corpus]).write(page)
    _print(matches, chosen, as_json)
    if page is not None:
        click.echo(f"page: {page}", err=True)


def _print(matches: "dict[str, list[Match]]", chosen: "dict[str, Split]", as_json: bool) -> None:
    import msgspec

    if as_json:
        rows: dict[str, Any] = {t: {"items": found, "split": chosen.get(t)} for t, found in matches.items()}
        click.echo(msgspec.json.encode(rows))
        return
    from rich.console import Console
    from rich.table import Table

    from herd.evals.overlap import COLUMNS, line

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for task, found in matches.items():
        table.add_row(*line(task, found, chosen.get(task)))
    Console(width=180).print(table)
