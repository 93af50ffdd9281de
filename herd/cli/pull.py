"""Fetch a model into the cache.

\b
Examples:
  herd pull smollm2-135m
  herd pull hf:HuggingFaceTB/SmolLM2-1.7B-Instruct
  herd pull 'meta:https://...*?Policy=...' --model llama-3.1-8b-instruct
"""

import os

import click

from herd.cli.common import download_progress, models_home
from herd.weights.hub import pull


@click.command(help=__doc__)
@click.argument("name", help="smollm2-135m, hf:ORG/NAME[@REVISION] or meta:SIGNED_URL.")
@click.option("--model", help="Which model a meta: link is for.")
def command(
    name: str,
    model: str | None,
) -> None:
    with download_progress() as progress:
        folder = pull(name, models_home(), model=model, token=os.environ.get("HF_TOKEN"), progress=progress)
    print(folder)
