"""Fetch a model into the cache.

\b
Examples:
  herd pull smollm2-135m
  herd pull hf:HuggingFaceTB/SmolLM2-1.7B-Instruct
  herd pull 'meta:https://...*?Policy=...' --model llama-3.1-8b-instruct
"""

import os
from typing import Annotated, Optional

import typer

from herd.cli.common import download_progress, models_home
from herd.weights.hub import pull


def command(
    name: Annotated[str, typer.Argument(help="smollm2-135m, hf:ORG/NAME[@REVISION] or meta:SIGNED_URL.")],
    model: Annotated[Optional[str], typer.Option(help="Which model a meta: link is for.")] = None,
) -> None:
    with download_progress() as progress:
        folder = pull(name, models_home(), model=model, token=os.environ.get("HF_TOKEN"), progress=progress)
    print(folder)
