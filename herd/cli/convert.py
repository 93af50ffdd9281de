"""Convert a checkpoint between Meta's files, Hugging Face's and GGUF, a few megabytes at a time.

\b
Examples:
  herd convert Llama-3.1-8B llama.gguf --format BF16
  herd convert smollm2-135m folder --to hf
  herd convert Llama-3.1-70B llama.gguf --split 20G
"""

from pathlib import Path

import click

from herd.cli.common import PATH, open_model, show_progress, split_option, warn
from herd.weights.convert import convert, target_kind


@click.command(help=__doc__)
@click.argument("source", metavar="IN", help="A checkpoint: a folder, a .gguf file, or a pulled model's name.")
@click.argument("out", type=PATH, metavar="OUT", help="The folder or .gguf file to write.")
@click.option("--to", help="meta, hf or gguf. Default: gguf for OUT ending in .gguf.")
@click.option("--format", help="Number format of the matrices: F32, F16 or BF16. Default: as they are.")
@split_option
def command(
    source: str,
    out: Path,
    to: str | None,
    format: str | None,
    split: int | None,
) -> None:
    kind = target_kind(out, to)
    checkpoint = open_model(source)
    with show_progress(in_bytes=True) as progress:
        written = convert(checkpoint, out, kind, format, progress, split, warn)
    print(written)
