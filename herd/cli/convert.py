"""Convert a checkpoint between Meta's files, Hugging Face's and GGUF, a few megabytes at a time.

\b
Examples:
  herd convert Llama-3.1-8B llama.gguf --format BF16
  herd convert smollm2-135m folder --to hf
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from herd.cli.common import byte_progress, open_model
from herd.weights.convert import convert, target_kind


def command(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A checkpoint: a folder, a .gguf file, or a pulled model's name.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder or .gguf file to write.")],
    to: Annotated[Optional[str], typer.Option(help="meta, hf or gguf. Default: gguf for OUT ending in .gguf.")] = None,
    format: Annotated[
        Optional[str], typer.Option(help="Number format of the matrices: F32, F16 or BF16. Default: as they are.")
    ] = None,
) -> None:
    kind = target_kind(out, to)
    checkpoint = open_model(source)
    with byte_progress(out.name) as progress:
        convert(checkpoint, out, kind, format, progress)
    print(out)
