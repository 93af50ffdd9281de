"""Fetch a model into the cache.

\b
Examples:
  herd pull smollm2-135m
  herd pull hf:HuggingFaceTB/SmolLM2-1.7B-Instruct
  herd pull hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M
  herd pull 'meta:https://...*?Policy=...' --model llama-3.1-8b-instruct
"""

import os

import click

from herd.cli.common import models_home, show_progress, warn
from herd.weights.hub import pull


@click.command(help=__doc__)
@click.argument("name", help="smollm2-135m, hf:ORG/NAME, hf:ORG/NAME:QUANT, hf:ORG/NAME/FILE.gguf or meta:SIGNED_URL.")
@click.option("--model", help="Which model a meta: link is for.")
def command(
    name: str,
    model: str | None,
) -> None:
    with show_progress(in_bytes=True) as progress:
        path = pull(name, models_home(), model=model, token=os.environ.get("HF_TOKEN"), progress=progress, say=warn)
    print(path)
