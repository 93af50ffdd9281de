"""Measure prefill and decode speed of a model on this machine.

\b
Examples:
  herd bench
  herd bench model.gguf --threads 2 --prompt 512 --generate 128 --depth 0 --batch 1 --json
"""

import json as jsonlib
from typing import Any

import click

from herd.cli.common import engine_options, model_argument, open_model
from herd.engine.bench import bench
from herd.engine.open import open_backend


@click.command(help=__doc__)
@model_argument
@click.option("--prompt", default=512, help="Tokens of prompt.")
@click.option("--generate", default=128, help="Tokens to generate.")
@click.option("--depth", default=0, help="Tokens that are in the cache before.")
@click.option("--batch", default=1, help="Sequences at a time.")
@click.option("--repeat", default=3, help="Runs; the median is reported.")
@click.option(
    "--isa",
    help="Instruction set of the native backend: avx512bf16, avx512, avxvnni, avx2, neon, portable. Default: the best.",
)
@click.option("--json", is_flag=True, help="One JSON object.")
@engine_options
def command(
    model: str,
    prompt: int,
    generate: int,
    depth: int,
    batch: int,
    repeat: int,
    isa: str | None,
    json: bool,
    **backend: Any,
) -> None:
    checkpoint = open_model(model)
    tokens = batch * (depth + prompt + generate + 32)
    opened = open_backend(checkpoint, cache_tokens=max(tokens, 32), isa=isa, **backend)
    found = {"model": str(checkpoint.path), **bench(
        opened, prompt=prompt, generate=generate, depth=depth, batch=batch, repeat=repeat
    )}  # fmt: skip
    opened.close()
    if json:
        print(jsonlib.dumps(found))
        return
    for key, value in found.items():
        print(f"{key.replace('_', ' '):<28} {'-' if value is None else value}")
