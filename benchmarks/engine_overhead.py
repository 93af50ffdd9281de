"""What the engine itself costs a request: wall time less the time inside `Backend.step`, for many requests of one token.

A random model of the shape `tiny` does the computing, so that nearly all time is the engine's. Requests have prompts of their own.

  python benchmarks/engine_overhead.py --requests 100000
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from herd.engine.backends.native import NativeBackend
from herd.engine.engine import Engine
from herd.engine.request import Request, SamplingParams
from herd.family import shape
from herd.text.gguf import GGUFTokenizer
from herd.text.tokenizer import Declared
from herd.text.vocabulary import byte_alphabet
from herd.weights.checkpoint import Checkpoint, StoredTensor


def tiny() -> Checkpoint:
    """Random weights and a vocabulary of bytes."""
    config = dataclasses.replace(shape("tiny"), context=1024)
    rng = np.random.default_rng(0)
    tensors = {
        name: StoredTensor.of(rng.standard_normal(s, np.float32) / 8) for name, s in config.tensor_shapes().items()
    }
    tokens = list(byte_alphabet())
    tokenizer = GGUFTokenizer(pre="llama-bpe", tokens=tokens, types=[1] * len(tokens), merges=[], declared=Declared())
    return Checkpoint(Path("tiny"), "random", config, tensors, lambda: tokenizer, name="tiny")


class Timed(NativeBackend):
    """The native backend with a clock around its steps."""

    inside = 0.0

    def step(self, plan):
        begun = time.perf_counter()
        try:
            return super().step(plan)
        finally:
            self.inside += time.perf_counter() - begun


def requests(count: int, prompt: int) -> Iterator[Request]:
    """One token each, greedy."""
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    for i in range(count):
        yield Request(prompt=[(i >> (8 * k)) & 255 if k < 3 else k for k in range(prompt)], params=params)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--prompt", type=int, default=8, help="tokens of a prompt")
    parser.add_argument("--at-once", action="store_true", help="put all in the queue before the first is answered")
    given = parser.parse_args()
    checkpoint = tiny()
    backend = Timed(checkpoint, threads=1, cache_tokens=4096)
    with Engine(backend, checkpoint.tokenizer, max_waiting=2 * given.requests) as engine:
        list(engine.run(requests(1000, given.prompt)))  # not timed
        backend.inside = 0.0
        begun = time.perf_counter()
        ahead = given.requests if given.at_once else 256
        done = sum(c.error is None for c in engine.run(requests(given.requests, given.prompt), ahead=ahead))
        wall = time.perf_counter() - begun
    assert done == given.requests
    each = (wall - backend.inside) / given.requests * 1e6
    print(
        f"{given.requests:,} requests: {wall:.2f} s, of which {backend.inside:.2f} s in steps; {each:.1f} us a request beside them"
    )


if __name__ == "__main__":
    main()
