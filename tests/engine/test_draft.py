"""Guessed tokens change no result, bit for bit: greedy, sampled, penalized, constrained, alone and together."""

import dataclasses
import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.grammar import Grammars, json_grammar
from herd.engine.lookup import Lookup
from herd.engine.open import open_engine
from herd.engine.pace import Pace, best_length, gain
from herd.engine.request import Request, SamplingParams
from herd.errors import ConfigError
from herd.family import ModelConfig
from tests.models import byte_tokenizer, random_checkpoint

CONFIG = ModelConfig(
    layers=2, dim=128, ffn_dim=256, heads=4, kv_heads=2, head_dim=32, vocab=512, context=512, rope_theta=10_000.0
)


@pytest.fixture(scope="module")
def models():
    """A model, and one that mostly agrees with it."""
    return random_checkpoint(CONFIG, seed=3), random_checkpoint(CONFIG, seed=3, fmt="BF16")


@pytest.fixture(scope="module")
def engines(models):
    """Plain, with lookup, with a draft model, and with one and too small a cache."""
    target, draft = models
    made = [
        open_engine(target, "native", threads=threads, cache_tokens=tokens, draft=guesses)
        for threads, tokens, guesses in ((1, 4096, None), (2, 4096, "lookup"), (1, 4096, draft), (2, 480, draft))
    ]
    yield made
    for engine in made:
        engine.close()


def replies(engine, requests):
    done = sorted(engine.run(requests), key=lambda c: (c.request.id, c.index))
    return [(c.request.id, c.index, c.tokens, c.logprobs, c.finish_reason, c.usage.completion) for c in done]


class Even:
    """A constraint: even tokens only, which may not be guessed at."""

    def mask(self):
        return np.full(16, 0x55555555, np.uint32)

    def advance(self, token):
        assert token % 2 == 0


class Rising:
    """A constraint with a state: the first token is even, the next odd, and so on."""

    def __init__(self, count=0):
        self.count = count

    def mask(self):
        return np.full(16, (0x55555555, 0xAAAAAAAA)[self.count % 2], np.uint32)

    def advance(self, token):
        assert token % 2 == self.count % 2
        self.count += 1

    def forced(self):
        return [7, 8, 9] if self.count % 5 == 0 else []

    def walk(self, guess):
        right = 0
        while right < len(guess) and guess[right] % 2 == (self.count + right) % 2:
            right += 1
        return lambda: np.stack([Rising(self.count + i).mask() for i in range(right + 1)])


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
        constraint = data.draw(st.sampled_from([None, Even, Rising]))
        prompt = (cycle * 40)[: data.draw(st.integers(1, 150))]
        requests.append(Request(id=str(i), prompt=prompt, params=params, constraint=constraint))
    plain, *others = engines
    expected = replies(plain, requests)
    for drafting in others:
        assert replies(drafting, requests) == expected


def steps_of(engine, request):
    """A request's completion, and how many steps it took."""
    backend, count = engine.backend, []
    inner = backend.step
    backend.step = lambda plan: count.append(0) or inner(plan)
    (done,) = engine.run([request])
    del backend.step
    return done, len(count)


def test_repetition_takes_fewer_steps(engines):
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True, logit_bias={7: 30.0, 8: 29.9})
    steps = [steps_of(engine, Request(prompt=[7, 8, 9] * 20, params=params))[1] for engine in engines]
    assert steps[1] < steps[0] / 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_model_takes_fewer_steps(engines, temperature):
    params = SamplingParams(temperature=temperature, max_tokens=200, ignore_eos=True, seed=5)
    steps = [steps_of(engine, Request(prompt=list(range(40)), params=params))[1] for engine in engines]
    assert steps[0] == 200
    assert max(steps[2:]) < 120


def test_grammars_are_guessed_at(engines):
    grammars = Grammars(byte_tokenizer(), CONFIG.vocab)
    schema = {
        "type": "object", "additionalProperties": False, "required": ["first", "items"],
        "properties": {
            "first": {"type": "boolean"},
            "items": {"type": "array", "minItems": 6, "maxItems": 6, "items": {"enum": ["a long value of this", "another one"]}},
        },
    }  # fmt: skip
    prompt = list(b'{"first": true, "items": ["a long value of this", "another one", "another one"]}')
    try:
        for temperature in (0.0, 0.9):
            request = Request(
                prompt=prompt,
                params=SamplingParams(temperature=temperature, seed=1, max_tokens=300),
                constraint=grammars.constraint(json_grammar(schema)),
            )
            (plain, slow), *others = [steps_of(engine, request) for engine in engines]
            assert jsonschema_ok(plain.text)
            assert slow < len(plain.tokens) / 2  # what the grammar leaves no choice about
            for done, _ in others:
                assert done.error is None
                assert done.tokens == plain.tokens
            assert others[0][1] <= slow
    finally:
        grammars.close()


def jsonschema_ok(text):
    value = msgspec.json.decode(text)
    return isinstance(value["first"], bool) and len(value["items"]) == 6


@pytest.mark.parametrize("which", [1, 2])
def test_samples_have_the_models_distribution(engines, which):
    """Three tokens of three, 3,000 times, beside the exact probabilities (chi-square, 26 degrees of freedom, 1 in 1,000)."""
    tokens, prompt = (10, 20, 30), [10, 20, 30] * 4

    def exact(prefix):
        (done,) = engines[0].run(
            [Request(prompt=prompt + prefix, params=SamplingParams(max_tokens=0), score_tokens=tokens)]
        )
        weights = np.exp(np.array(done.token_logprobs) / 1.5)
        return weights / weights.sum()

    pairs = list(itertools.product(range(3), repeat=2))
    first = exact([])
    second = {i: exact([tokens[i]]) for i in range(3)}
    third = {(i, j): exact([tokens[i], tokens[j]]) for i, j in pairs}
    expected = np.array([first[i] * second[i][j] * third[i, j][k] for i, j in pairs for k in range(3)])
    params = [
        SamplingParams(temperature=1.5, max_tokens=3, seed=seed, logit_bias=dict.fromkeys(tokens, 200.0))
        for seed in range(3000)
    ]
    found = np.zeros(27)
    guessed = []
    engine = engines[which]
    inner = engine.backend.step
    engine.backend.step = lambda plan: guessed.append(sum(row.draft for row in plan.rows)) or inner(plan)
    for done in engine.run((Request(prompt=prompt, params=p) for p in params), ahead=3):
        i, j, k = (tokens.index(t) for t in done.tokens)
        found[i * 9 + j * 3 + k] += 1
    del engine.backend.step
    assert sum(guessed) > 500
    assert expected.min() * 3000 > 5
    assert ((found - expected * 3000) ** 2 / (expected * 3000)).sum() < 54.05


def test_what_is_looked_up():
    lookup = Lookup()
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3], 15)[:2] == [4, 5]
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3, 4], 2) == [5, 1]
    assert Lookup().guess([1, 2, 3, 4], 15) == []
    assert Lookup().guess([6, 5, 5, 5], 2) == [5, 5]
    assert Lookup().guess([6, 5, 5, 5], 0) == []


def test_lengths_follow_what_was_right():
    copying, drifting = Lookup(), Lookup()
    text = list(range(40)) * 2
    lengths = [len(copying.guess(text[:at], 15)) for at in range(44, 60)]
    assert lengths == sorted(lengths)
    assert lengths[0] >= 3
    vain, reply = list(range(3)) * 20, []
    for i in range(60):  # what came after 0, 1, 2 never comes again
        reply += [0, 1, 2, 100 + i]
        lengths.append(len(drifting.guess(vain + reply[:-1], 15)))
    assert lengths[-1] == 0
    pace = Pace(0.3)
    asked = 0
    for _ in range(1000):
        count = pace.length(15)
        asked += count
        if count:
            pace.learn(count, 0)
    assert asked < 20
    assert pace.learn(1, 1) is None
    assert Pace(0.3).length(2) == 2


def test_gain_is_the_formula():
    assert gain(0.8, 0.8, 0.1, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8) / 1.4)
    assert best_length(0.0, 0.9, 0.1, 15) == 0


def test_what_is_refused(models):
    target = models[0]
    with pytest.raises(ConfigError, match="torch backend verifies no guesses"):
        open_engine(target, "torch", cache_tokens=64, draft="lookup")
    with pytest.raises(ConfigError, match="'psychic': expected lookup or a model"):
        open_engine(target, draft="psychic")
    wider = dataclasses.replace(CONFIG, vocab=640)
    with pytest.raises(ConfigError, match="640 tokens and the model 512"):
        open_engine(target, draft=random_checkpoint(wider))
    other = random_checkpoint(CONFIG)
    swapped = byte_tokenizer()
    swapped.token_bytes = lambda token: b"?" if token == 65 else byte_tokenizer().token_bytes(token)
    other.load_tokenizer = lambda: swapped
    with pytest.raises(ConfigError, match=r"token 65 is b'\?' in the draft model"):
        open_engine(target, draft=other)
