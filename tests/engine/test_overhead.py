"""What the engine itself costs: the time of many short requests beside their steps."""

import dataclasses
import time

import pytest

from herd.engine.backends.native import NativeBackend
from herd.engine.engine import Engine
from herd.engine.request import Request, SamplingParams
from herd.family import shape
from tests.models import random_checkpoint


@pytest.mark.parametrize("ahead", [256, 20_000])
def test_many_short_requests_cost_the_engine_little_each(ahead):
    """Wall time less time in steps: 10 to 14 microseconds a request by `benchmarks/engine_overhead.py`; the promise is 50, the bound five times that."""

    class Timed(NativeBackend):
        inside = 0.0

        def step(self, plan):
            begun = time.perf_counter()
            try:
                return super().step(plan)
            finally:
                self.inside += time.perf_counter() - begun

    count, one = 20_000, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    checkpoint = random_checkpoint(dataclasses.replace(shape("tiny"), context=1024))
    backend = Timed(checkpoint, threads=1, cache_tokens=4096)
    with Engine(backend, checkpoint.tokenizer) as engine:
        requests = [Request(prompt=[i & 255, i >> 8, 1, 2], params=one) for i in range(count)]
        begun = time.perf_counter()
        found = [len(c.tokens) for c in engine.run(requests, ahead=ahead)]
        beside = time.perf_counter() - begun - backend.inside
    assert found == [1] * count
    assert beside / count < 250e-6
