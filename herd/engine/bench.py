"""How fast a backend computes a prompt and generates, without anything around it."""

import statistics
import time
from typing import Any

from herd.engine.backend import Backend, Row, Sampling, StepPlan
from herd.engine.request import SamplingParams
from herd.errors import ConfigError

_GREEDY = SamplingParams(temperature=0)


def bench(
    backend: Backend,
    *,
    prompt: int,
    generate: int,
    depth: int = 0,
    batch: int = 1,
    step_tokens: int = 512,
    repeat: int = 3,
) -> dict[str, Any]:
    """Tokens a second for prompts of `prompt` tokens after `depth` others, then `generate` more, in `batch` sequences.

    Each figure is the median of `repeat` runs; prompts go in steps of `step_tokens`. ConfigError when the cache of the
    backend is too small.
    """
    length = depth + prompt + generate
    each = -(-length // backend.block_size)
    if min(prompt, generate, depth) < 0 or batch < 1 or repeat < 1 or length < 1:
        raise ConfigError("bench: prompt, generate and depth are 0 or more, batch and repeat 1 or more")
    if length > backend.config.context:
        raise ConfigError(f"bench: {length:,} tokens exceed the model's context of {backend.config.context:,}")
    if each * batch > backend.block_count:
        raise ConfigError(
            f"bench: the cache holds {backend.block_count * backend.block_size:,} tokens; needed {length * batch:,}"
        )
    tables = [list(range(i * each, (i + 1) * each)) for i in range(batch)]
    prefill, decode = [], []
    backend.settle()
    for i in range(batch):
        _fill(backend, tables[i], i, 0, depth, step_tokens)
    _step(backend, tables, [depth] * batch, 1)  # a step that is not timed wakes the threads
    for _ in range(repeat):
        begun = time.perf_counter()
        for i in range(batch):
            _fill(backend, tables[i], i, depth, depth + prompt, step_tokens)
        middle = time.perf_counter()
        for n in range(generate):
            _step(backend, tables, [depth + prompt + n] * batch, 1)
        ended = time.perf_counter()
        prefill.append(prompt * batch / (middle - begun))
        decode.append(generate * batch / (ended - middle))
    return {
        "prefill_tokens_per_second": round(statistics.median(prefill), 2) if prompt else None,
        "decode_tokens_per_second": round(statistics.median(decode), 2) if generate else None,
        "prompt": prompt,
        "generate": generate,
        "depth": depth,
        "batch": batch,
        "repeat": repeat,
        "backend": backend.name,
        "threads": getattr(backend, "threads", None),
        "instruction_set": getattr(backend, "isa", None),
    }


def _token(backend: Backend, sequence: int, position: int) -> int:
    return (sequence * 7919 + position * 104_729 + 17) % backend.config.vocab


def _fill(backend: Backend, table: list[int], sequence: int, first: int, last: int, step: int) -> None:
    for start in range(first, last, step):
        stop = min(start + step, last)
        tokens = [_token(backend, sequence, i) for i in range(start, stop)]
        blocks = table[: -(-stop // backend.block_size)]
        sampling = Sampling(_GREEDY, 0, 0) if stop == last else None
        backend.step(StepPlan([Row(tokens, start, blocks, sampling)]))


def _step(backend: Backend, tables: list[list[int]], starts: list[int], count: int) -> None:
    rows = [
        Row([_token(backend, i, start)], start, table[: start // backend.block_size + 1], Sampling(_GREEDY, 0, 0))
        for i, (table, start) in enumerate(zip(tables, starts, strict=True))
    ]
    backend.step(StepPlan(rows))
