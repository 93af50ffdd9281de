"""Measure how well a model predicts a text: lower is better. Computed as llama-perplexity does.

\b
Examples:
  herd perplexity smollm2-135m book.txt
  herd perplexity model.gguf wiki.txt --context 512 --chunks 40 --json
"""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from herd.cli.common import BackendFlag, DeviceFlag, DtypeFlag, KvCacheFlag, Model, ThreadsFlag, open_model
from herd.engine.batch import Prompter
from herd.engine.open import open_backend
from herd.engine.perplexity import perplexity


def command(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text file.")],
    context: Annotated[int, typer.Option(help="Tokens of a chunk.")] = 512,
    chunks: Annotated[Optional[int], typer.Option(help="Only the first so many chunks.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    threads: ThreadsFlag = None,
    backend: BackendFlag = "auto",
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    kv_cache: KvCacheFlag = None,
) -> None:
    text = Prompter.read_prompt(file)
    checkpoint = open_model(model)
    opened = open_backend(
        checkpoint,
        backend,
        device=device,
        dtype=dtype,
        threads=threads,
        cache_tokens=max(context, 32),
        kv_cache=kv_cache,
    )

    def progress(done: int, total: int, so_far: float) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{total} chunks, {so_far:.4f}", end="\n" if done == total else "", file=sys.stderr)

    value, scored = perplexity(opened, checkpoint.tokenizer, text, context=context, chunks=chunks, progress=progress)
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
