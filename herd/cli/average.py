"""Average checkpoints of one model: of a run's last steps, or of several runs.

\b
Examples:
  herd average runs/tiny-pretrain/checkpoints/step-* --out averaged --to hf
  herd average runs/a runs/b --out mean.gguf
"""

from pathlib import Path

import click

from herd.cli.common import PATH, open_model, show_progress
from herd.errors import ConfigError


@click.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, help="Checkpoints, runs, or states of a run (checkpoints/step-...).")
@click.option("--out", type=PATH, required=True, help="The folder or .gguf file to write.")
@click.option("--to", help="meta, hf or gguf. Default: gguf for OUT ending in .gguf.")
@click.option("--format", help="Number format of the matrices: F32, F16 or BF16. Default: F32.")
def command(models: tuple[str, ...], out: Path, to: str | None, format: str | None) -> None:
    from herd.weights.average import averaged
    from herd.weights.convert import convert, target_kind

    if len(models) < 2:
        raise ConfigError("give two checkpoints or more to average")
    kind = target_kind(out, to)
    mean = averaged([open_model(model) for model in models])
    with show_progress(in_bytes=True) as progress:
        print(convert(mean, out, kind, format, progress))
