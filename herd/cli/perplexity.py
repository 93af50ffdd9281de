"""Measure how well a model predicts a text: lower is better. Computed as llama-perplexity does.

\b
Examples:
  herd perplexity smollm2-135m book.txt
  herd perplexity model.gguf wiki.txt --context 512 --chunks 40 --json
"""

import json as jsonlib
from pathlib import Path
from typing import Any

import click

from herd.cli.common import PATH, engine_options, open_model, show_progress
from herd.engine.batch import Prompter
from herd.engine.open import open_backend
from herd.evals.perplexity import perplexity


@click.command(help=__doc__)
@click.argument("model", help="A path, or the name of a model that was pulled.")
@click.argument("file", type=PATH, metavar="FILE", help="A text file.")
@click.option("--context", default=512, help="Tokens of a chunk.")
@click.option("--chunks", type=int, help="Only the first so many chunks.")
@click.option("--json", is_flag=True, help="One JSON object.")
@engine_options
def command(
    model: str,
    file: Path,
    context: int,
    chunks: int | None,
    json: bool,
    **backend: Any,
) -> None:
    text = Prompter.read_prompt(file)
    checkpoint = open_model(model)
    opened = open_backend(checkpoint, cache_tokens=max(context, 32), **backend)

    with show_progress() as progress:
        value, scored = perplexity(
            opened, checkpoint.tokenizer, text, context=context, chunks=chunks, progress=progress
        )
    opened.close()
    if json:
        found = {
            "perplexity": value,
            "tokens": scored,
            "context": context,
            "model": str(checkpoint.path),
            "file": str(file),
        }
        print(jsonlib.dumps(found))
    else:
        print(f"perplexity {value:.4f} over {scored:,} tokens")
