"""Guessed tokens change no result, bit for bit: greedy, sampled, penalized, constrained, alone and together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.backends.native import NativeBackend
from herd.engine.backends.torch import TorchBackend
from herd.engine.engine import Engine
from herd.engine.lookup import Lookup
from herd.engine.request import Request, SamplingParams
from herd.errors import ConfigError
from herd.family import ModelConfig
from tests.models import byte_tokenizer, random_checkpoint

CONFIG = ModelConfig(
    layers=2, dim=128, ffn_dim=256, heads=4, kv_heads=2, head_dim=32, vocab=512, context=512, rope_theta=10_000.0
)


@pytest.fixture(scope="module")
def engines():
    checkpoint = random_checkpoint(CONFIG, seed=3, tokenizer=True)
    made = [
        Engine(NativeBackend(checkpoint, threads=threads, cache_tokens=4096), byte_tokenizer(), draft=draft)
        for threads, draft in ((1, None), (2, "lookup"))
    ]
    yield made
    for engine in made:
        engine.close()


def replies(engine, requests):
    done = sorted(engine.run(requests), key=lambda c: (c.request.id, c.index))
    return [(c.request.id, c.index, c.tokens, c.logprobs, c.finish_reason, c.usage.completion) for c in done]


class Even:
    """A constraint: even tokens only."""

    def mask(self):
        return np.full(16, 0x55555555, np.uint32)

    def advance(self, token):
        assert token % 2 == 0


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_guesses_change_no_result(engines, data):
    requests = []
    for i in range(data.draw(st.integers(1, 6))):
        cycle = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=8))
        params = SamplingParams(
            temperature=data.draw(st.sampled_from([0.0, 0.05, 0.8])), max_tokens=data.draw(st.integers(1, 80)), seed=i,
            ignore_eos=True, logprobs=data.draw(st.sampled_from([None, 2])), n=data.draw(st.integers(1, 2)),
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.2])), logit_bias={cycle[0]: 4.0, cycle[-1]: 4.0},
            stop_tokens=tuple(data.draw(st.lists(st.integers(0, 255), max_size=1))),
        )  # fmt: skip
        constraint = data.draw(st.sampled_from([None, None, Even]))
        prompt = (cycle * 40)[: data.draw(st.integers(1, 150))]
        requests.append(Request(id=str(i), prompt=prompt, params=params, constraint=constraint))
    plain, drafting = engines
    assert replies(drafting, requests) == replies(plain, requests)


def test_repetition_takes_fewer_steps(engines):
    steps = []
    for engine in engines:
        backend, count = engine.backend, []
        inner = backend.step
        backend.step = lambda plan, inner=inner, count=count: count.append(0) or inner(plan)
        params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True, logit_bias={7: 30.0, 8: 29.9})
        list(engine.run([Request(prompt=[7, 8, 9] * 20, params=params)]))
        del backend.step
        steps.append(len(count))
    assert steps[1] < steps[0] / 3


def test_what_is_looked_up():
    lookup = Lookup()
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3], 15) == [4, 5, 1]
    lookup.learn(3, 3)
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2], 15) == [3, 4, 5, 1, 2, 3, 4]
    lookup.learn(7, 0)
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3], 15) == []  # a pause after a wrong one
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4], 2) == [5, 1]
    assert Lookup().guess([1, 2, 3, 4], 15) == []
    assert Lookup().guess([6, 5, 5, 5], 3) == [5, 5, 5]


def test_only_where_guesses_are_verified():
    checkpoint = random_checkpoint(CONFIG)
    with pytest.raises(ConfigError, match="native backend"):
        Engine(TorchBackend.load(checkpoint, cache_tokens=64), byte_tokenizer(), draft="lookup")
    with pytest.raises(ConfigError, match="lookup"):
        Engine(NativeBackend(checkpoint, cache_tokens=64, threads=1), byte_tokenizer(), draft="psychic")
