"""Draw the curves of training runs into one HTML page.

\b
Examples:
  herd plot runs/tiny-pretrain
  herd plot runs/a runs/b --out compare.html
"""

from pathlib import Path

import click

from herd.cli.common import PATH


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, type=PATH, required=True, help="Folders of runs.")
@click.option("--out", type=PATH, help="The page to write. Default: curves.html in the first run.")
def command(runs: tuple[Path, ...], out: Path | None) -> None:
    from herd.train.curves import plot

    out = out or runs[0] / "curves.html"
    plot(runs, out)
    print(out)
