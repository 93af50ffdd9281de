"""Measure prefill and decode speed of a model on this machine.

\b
Examples:
  herd bench
  herd bench model.gguf --threads 2 --prompt 512 --generate 128 --depth 0 --batch 1 --json
"""

import json as jsonlib
from typing import Annotated

import typer

from herd.cli.common import BackendFlag, DeviceFlag, DtypeFlag, KvCacheFlag, Model, ThreadsFlag, open_model
from herd.engine.bench import bench
from herd.engine.open import open_backend
from herd.weights.hub import DEFAULT_MODEL


def command(
    model: Model = DEFAULT_MODEL,
    threads: ThreadsFlag = None,
    prompt: Annotated[int, typer.Option(help="Tokens of prompt.")] = 512,
    generate: Annotated[int, typer.Option(help="Tokens to generate.")] = 128,
    depth: Annotated[int, typer.Option(help="Tokens that are in the cache before.")] = 0,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 1,
    repeat: Annotated[int, typer.Option(help="Runs; the median is reported.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    backend: BackendFlag = "auto",
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    kv_cache: KvCacheFlag = None,
) -> None:
    checkpoint = open_model(model)
    tokens = batch * (depth + prompt + generate + 32)
    opened = open_backend(
        checkpoint,
        backend,
        device=device,
        dtype=dtype,
        threads=threads,
        cache_tokens=max(tokens, 32),
        kv_cache=kv_cache,
    )
    found = {"model": str(checkpoint.path), **bench(
        opened, prompt=prompt, generate=generate, depth=depth, batch=batch, repeat=repeat
    )}  # fmt: skip
    opened.close()
    if json:
        print(jsonlib.dumps(found))
        return
    for key, value in found.items():
        print(f"{key.replace('_', ' '):<28} {'-' if value is None else value}")
