"""Many requests at once, and requests that go wrong: each gets its own, and what breaks one ends that one."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from herd.engine.embed import embed, embedding_request
from herd.engine.engine import Engine
from herd.engine.open import open_backend, open_engine
from herd.engine.request import Request, SamplingParams, Usage
from herd.errors import (
    ConstraintError,
    EngineStoppedError,
    NotFiniteError,
    QueueFullError,
    RequestError,
)
from herd.family import shape
from herd.quant.quantize import quantize
from herd.weights.checkpoint import Checkpoint, StoredTensor
from tests.models import random_checkpoint

TINY = dataclasses.replace(shape("tiny"), context=1024)
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def prompt(i: int, length: int = 20) -> list[int]:
    return [(i * 31 + k * 7) % 256 for k in range(length)]


def settled(engine: Engine) -> bool:
    """Whether the engine has let go of everything, given a moment."""
    for _ in range(500):
        load = engine.load()
        if (load.waiting, load.running, load.free_blocks) == (0, 0, load.blocks):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_embeddings_do_not_depend_on_chunks_company_or_preemption(backend):
    opened = open_backend(random_checkpoint(TINY), backend, threads=1, cache_tokens=160)
    prompts = [prompt(i % 3, 90) for i in range(6)]  # a reply that grows takes one's blocks away
    with Engine(opened, random_checkpoint(TINY).tokenizer, step_tokens=17) as engine:
        whole = embed(engine, prompts[:1]), embed(engine, prompts[:1], pooling="last")
        before = engine.load().preemptions
        for length in (20, 23, 26, 29):
            params = SamplingParams(max_tokens=100, ignore_eos=True)
            reply = Request(prompt=prompt(9, length), params=params, priority=-1)
            asked = [reply, *(embedding_request(p, how, id=how) for p in prompts for how in ("mean", "last"))]
            found = [done for done in engine.run(asked) if done.request is not reply]
            for how, one in zip(("mean", "last"), whole, strict=True):
                same = [d.embedding for d in found if d.request.id == how and list(d.request.prompt) == prompts[0]]
                assert len(same) == 2
                assert np.allclose(np.array(same) / np.linalg.norm(same, axis=1, keepdims=True), one, atol=1e-6)
        assert settled(engine)
        assert engine.load().preemptions > before
        for wrong in (
            {"pooling": "max"},
            {"pooling": "mean", "score_tokens": (1,)},
            {"pooling": "last", "params": GREEDY},
        ):
            with pytest.raises(RequestError, match="pooling"):
                engine.complete(Request(**{"prompt": [1, 2], **wrong}))


class Panic(BaseException):
    """What Rust's panics are in Python."""


class Allows:
    """A constraint that goes wrong after some tokens."""

    def __init__(self, wrong: str, after: int = 3) -> None:
        self.wrong, self.left = wrong, after

    def mask(self) -> np.ndarray:
        if self.left <= 0 and self.wrong != "advance":
            if self.wrong == "raise":
                raise ValueError("no mask today")
            if self.wrong == "panic":
                raise Panic("index out of bounds")
            return np.zeros(3 if self.wrong == "short" else TINY.vocab // 32, np.uint32)
        return np.full(TINY.vocab // 32, 0xFFFFFFFF, np.uint32)

    def advance(self, token: int) -> None:
        self.left -= 1
        if self.left <= 0 and self.wrong == "advance":
            raise KeyError(token)


def test_an_id_may_be_used_by_two_at_once(small_engine):
    alone = [small_engine.complete(Request(prompt=prompt(i), params=GREEDY)).tokens for i in range(2)]
    found: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        events = small_engine.generate(Request(prompt=prompt(i), params=GREEDY, id="same"))
        found[i] = [token for event in events for token in event.tokens]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [tuple(found[i]) for i in range(2)] == alone
    assert settled(small_engine)


@pytest.mark.parametrize("wrong", ["raise", "panic", "short", "nothing", "advance"])
def test_a_constraint_that_fails_ends_its_request_alone(small_engine, wrong):
    expected = small_engine.complete(Request(prompt=prompt(1), params=GREEDY)).tokens
    bad = Request(prompt=prompt(2), params=GREEDY, constraint=lambda: Allows(wrong))
    good = Request(prompt=prompt(1), params=GREEDY)
    found = {c.request is bad: c for c in small_engine.run([bad, good])}
    assert found[False].tokens == expected
    assert found[False].error is None
    assert found[True].finish_reason == "error"
    assert isinstance(found[True].error, ConstraintError)
    assert len(found[True].tokens) in (2, 3)
    with pytest.raises(ConstraintError):
        list(small_engine.generate(bad))
    with pytest.raises(ConstraintError, match="ZeroDivisionError"):
        small_engine.complete(Request(prompt=prompt(1), params=GREEDY, constraint=lambda: 1 // 0))
    assert settled(small_engine)


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt=[1.5]),  # type: ignore[list-item]
        Request(prompt=[2**40]),
        Request(prompt="text"),  # type: ignore[arg-type]
        Request(prompt=[1], params=SamplingParams(logit_bias={1.5: 1.0})),  # type: ignore[dict-item]
        Request(prompt=[1], params=SamplingParams(temperature="hot")),  # type: ignore[arg-type]
        Request(prompt=b"abc"),  # type: ignore[arg-type]
        Request(prompt=[1], params=SamplingParams(top_k=10**400)),
        Request(prompt=[1], params=SamplingParams(temperature="\ud800")),  # type: ignore[arg-type]
        Request(prompt=[1], score_tokens=""),  # type: ignore[arg-type]
        Request(prompt=[1], score_tokens=("1",)),  # type: ignore[arg-type]
        Request(prompt=[1], score_tokens={}),  # type: ignore[arg-type]
        Request(prompt=[1, 2], score_from="1"),  # type: ignore[arg-type]
        Request(prompt=[1], deadline="1"),  # type: ignore[arg-type]
        Request(prompt=[1], priority=None),  # type: ignore[arg-type]
        Request(prompt=[1], deadline=float("nan")),
        Request(prompt=[1, 2], score_from=0),
        Request(prompt=[1, 2], score_from=2),
        Request(prompt=[1, 2], score_from=1, params=SamplingParams(echo=True, logprobs=0)),
        Request(prompt=[1], score_tokens=(TINY.vocab,)),
        Request(prompt=[1], score_tokens=(1,), params=SamplingParams(max_tokens=4)),
    ],
)
def test_wrong_types_and_numbers_are_refused_at_the_door(small_engine, request_):
    with pytest.raises(RequestError):
        small_engine.generate(request_)
    good = small_engine.complete(Request(prompt=prompt(1), params=GREEDY))
    assert len(good.tokens) == 12


def test_run_takes_its_requests_as_it_goes_and_gives_every_completion(small_engine):
    taken = []

    def requests():
        for i in range(60):
            taken.append(i)
            params = SamplingParams(temperature=0.9, seed=i, n=2, max_tokens=2 + 9 * (i % 5 == 0), ignore_eos=True)
            yield Request(prompt=[] if i == 7 else prompt(i), params=params, id=str(i))

    run = small_engine.run(requests(), ahead=8)
    assert not taken
    found = {}
    for done, completion in enumerate(run):
        assert len(taken) <= 8 // 2 + done // 2 + 2
        found[completion.request.id, completion.index] = completion
    assert sorted(found) == sorted((str(i), k) for i in range(60) for k in range(2))
    for k in range(2):
        refused = found.pop(("7", k))
        assert (refused.finish_reason, refused.tokens) == ("error", ())
        assert "empty" in str(refused.error)
    assert all(c.error is None and len(c.tokens) == c.request.params.max_tokens for c in found.values())
    assert next(iter(found))[0] != "0"  # the long ones do not hold the short ones
    again = small_engine.run([found["3", 1].request])
    assert {c.index: c.tokens for c in again}[1] == found["3", 1].tokens


def test_a_run_may_be_endless_and_left(small_engine):
    endless = (Request(prompt=prompt(i), params=GREEDY) for i in itertools.count())
    first = list(itertools.islice(small_engine.run(endless, ahead=5), 20))
    assert len({id(c.request) for c in first}) == 20
    del endless
    assert settled(small_engine)
    assert list(small_engine.run([])) == []
    with pytest.raises(RequestError, match="ahead"):
        small_engine.run([], ahead=0)


def test_every_completion_counts_for_the_queue():
    with open_engine(random_checkpoint(TINY), threads=1, cache_tokens=640, max_sequences=2, max_waiting=6) as engine:
        slow = SamplingParams(max_tokens=300, ignore_eos=True)
        streams = [engine.generate(Request(prompt=prompt(i), params=slow)) for i in range(2)]
        for stream in streams:
            next(stream)
        more = engine.generate(Request(prompt=prompt(2), params=SamplingParams(n=5, max_tokens=2)))
        assert (engine.load().running, engine.load().waiting) == (2, 5)
        with pytest.raises(QueueFullError):
            engine.generate(Request(prompt=prompt(3), params=SamplingParams(n=2, max_tokens=2)))
        with pytest.raises(RequestError, match="at once"):
            engine.generate(Request(prompt=prompt(3), params=SamplingParams(n=7, max_tokens=2)))
        for stream in streams:
            stream.close()
        short = SamplingParams(n=3, max_tokens=2)
        run = list(engine.run(Request(prompt=prompt(i), params=short) for i in range(9)))  # waits for room
        assert len(run) == 27
        assert all(c.error is None for c in run)
        assert sum(event.finish_reason is not None for event in more) == 5
        assert settled(engine)


def test_completions_of_one_request_share_their_prompt():
    with open_engine(random_checkpoint(TINY), threads=1, cache_tokens=2048) as engine:
        params = SamplingParams(temperature=1, seed=5, n=8, max_tokens=6, ignore_eos=True)
        computed = []
        step = engine.backend.step
        engine.backend.step = lambda plan: computed.append(sum(len(r.tokens) for r in plan.rows)) or step(plan)
        found = list(engine.run([Request(prompt=prompt(1, 400), params=params)]))
        assert sum(computed) <= 400 + 7 * 16 + 8 * 6
        usage = Usage.of_request(c.usage for c in found)
        assert usage == Usage(prompt=400, completion=48, cached=0)
        again = list(engine.run([Request(prompt=prompt(1, 400), params=params)]))
        assert {c.usage for c in again} == {Usage(prompt=400, completion=6, cached=384)}
        with pytest.raises(RequestError, match="n is 8"):
            engine.complete(Request(prompt=[1], params=params))


def test_an_engine_that_fails_tells_everybody():
    engine = open_engine(random_checkpoint(TINY), threads=1, cache_tokens=640, max_sequences=1)
    stream = engine.generate(Request(prompt=prompt(1), params=SamplingParams(max_tokens=500, ignore_eos=True)))
    waiting = engine.run([Request(prompt=prompt(2), params=GREEDY)])
    next(stream)

    def fails(_plan):
        raise OSError("the memory is gone")

    engine.backend.step = fails
    with pytest.raises(EngineStoppedError, match="memory is gone"):
        list(stream)
    with pytest.raises(EngineStoppedError, match="memory is gone"):
        next(waiting)
    with pytest.raises(EngineStoppedError):
        engine.update({})
    assert not engine.healthy
    engine.close()


def broken(name: str, fmt: str, value: float) -> Checkpoint:
    """A random model with one number that is none: a weight, or in blocks the scale of one."""
    whole = random_checkpoint(TINY)
    tensors = {}
    for key, tensor in whole.tensors.items():
        weights = tensor.float32().reshape(tensor.shape).copy()
        if fmt != "F32" and weights.ndim == 2:
            raw = quantize(weights, fmt).reshape(len(weights), -1)
            if key == name:
                raw[3, :2] = np.array([value], np.float16).view(np.uint8)
            tensors[key] = StoredTensor(fmt, tensor.shape, lambda a, b, raw=raw: raw[a:b])
        else:
            if key == name:
                weights[3] = value
            tensors[key] = StoredTensor.of(weights)
    return dataclasses.replace(whole, tensors=tensors)


BROKEN = ["tok_embeddings.weight", "output.weight", "norm.weight"] + [
    f"layers.0.{name}.weight"
    for name in ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2")
]


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_end_a_request(name, value):
    request = Request(prompt=[3, 1, 2, 9, 3, 4, 5], params=GREEDY)
    score = Request(prompt=request.prompt, score_from=2, params=SamplingParams(max_tokens=0))
    for backend, fmt, kv in (
        ("native", "Q8_0", "f16"),
        ("native", "Q4_0", "int8"),
        ("native", "F32", "int8"),
        ("torch", "F32", None),
    ):
        with open_engine(broken(name, fmt, value), backend, threads=1, kv_cache=kv, cache_tokens=640) as engine:
            for one in (request, score, Request(prompt=request.prompt, score_tokens=(1, 2))):
                with pytest.raises(NotFiniteError, match="NaN"):
                    engine.complete(one)
            assert settled(engine)
            assert not engine.scheduler.cache._known  # nothing that was computed is found again
            assert engine.healthy


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_broken_token_ends_the_requests_that_have_it(backend):
    with open_engine(broken("tok_embeddings.weight", "F32", np.nan), backend, threads=1, cache_tokens=640) as engine:
        requests = [Request(prompt=[t] * 20, params=SamplingParams(max_tokens=1, temperature=0)) for t in (1, 2, 3, 4)]
        failed = {c.request.prompt[0]: c.error is not None for c in engine.run(requests)}
    assert failed == {1: False, 2: False, 3: True, 4: False}


@pytest.mark.parametrize("kv", ["f32", "f16", "int8"])
def test_a_broken_request_leaves_no_trace_in_the_blocks_it_had(kv):
    ask = [Request(prompt=[t] * n, params=SamplingParams(max_tokens=1, temperature=0)) for t, n in ((3, 60), (4, 20))]
    with open_engine(
        broken("tok_embeddings.weight", "F32", np.nan), "native", threads=1, kv_cache=kv, cache_tokens=64
    ) as engine:
        expected = engine.complete(ask[1]).tokens
        for _ in range(2):  # the broken one fills every block
            with pytest.raises(NotFiniteError):
                engine.complete(ask[0])
            assert engine.complete(ask[1]).tokens == expected


def test_scores_of_a_continuation_are_those_of_echo(small_engine):
    tokens = prompt(3, 90)
    echo = SamplingParams(max_tokens=0, echo=True, logprobs=2)
    whole = small_engine.complete(Request(prompt=tokens, params=echo)).prompt_logprobs
    small_engine.complete(Request(prompt=tokens[:70], params=GREEDY))
    for first in (1, 15, 16, 17, 70, 89):
        found = small_engine.complete(
            Request(prompt=tokens, score_from=first, params=SamplingParams(max_tokens=0, logprobs=2))
        )
        assert (found.finish_reason, found.tokens, found.text) == ("length", (), "")
        assert found.usage.cached == (first - 1) // 16 * 16
        for a, b in zip(found.prompt_logprobs, whole[first:], strict=True):
            assert a.token == b.token
            assert a.logprob == pytest.approx(b.logprob, abs=2e-5)
            assert [t for t, _ in a.top] == [t for t, _ in b.top]
    both = small_engine.complete(Request(prompt=tokens, score_from=80, params=GREEDY))
    assert both.tokens == small_engine.complete(Request(prompt=tokens, params=GREEDY)).tokens
    assert len(both.prompt_logprobs) == 10


def test_scores_of_named_tokens_are_those_of_the_next_token(small_engine):
    tokens = prompt(4, 40)
    everything = SamplingParams(max_tokens=1, logprobs=TINY.vocab, temperature=0)
    known = dict(small_engine.complete(Request(prompt=tokens, params=everything)).logprobs[0].top)
    assert len(known) == TINY.vocab
    found = small_engine.complete(Request(prompt=tokens, score_tokens=(9, 0, TINY.vocab - 1, 9)))
    assert found.tokens == ()
    assert found.token_logprobs == pytest.approx([known[9], known[0], known[TINY.vocab - 1], known[9]], abs=2e-5)
    with_prompt = small_engine.complete(Request(prompt=tokens, score_tokens=(9,), score_from=30))
    assert (len(with_prompt.prompt_logprobs), len(with_prompt.token_logprobs)) == (10, 1)


@pytest.mark.parametrize(("backend", "fmt"), [("native", "F32"), ("native", "Q8_0"), ("torch", "F32")])
@pytest.mark.parametrize("tied", [False, True])
def test_updated_weights_are_those_of_a_fresh_engine(backend, fmt, tied):
    config = dataclasses.replace(TINY, tied=tied)
    old, new = (random_checkpoint(config, seed) for seed in (1, 2))
    if fmt != "F32":
        old = dataclasses.replace(old, tensors={
            name: StoredTensor(fmt, t.shape, lambda a, b, q=quantize(t.float32(), fmt): q[a:b]) if len(t.shape) == 2 else t
            for name, t in old.tensors.items()
        })  # fmt: skip
    request = Request(prompt=prompt(1, 50), params=GREEDY)
    with open_engine(new, backend, threads=1, cache_tokens=640) as engine:
        expected = engine.complete(request).tokens
    with open_engine(old, backend, threads=1, cache_tokens=640) as engine:
        before = engine.complete(request).tokens
        assert before != expected
        assert engine.config == config
        engine.update({})
        assert engine.complete(request).usage.cached == 0
        for wrong in (
            {"layers.9.ffn_norm.weight": new.tensors["norm.weight"]},
            {"norm.weight": new.tensors["tok_embeddings.weight"]},
            {"norm.weight": new.tensors["norm.weight"].float32()},
        ):
            with pytest.raises(RequestError, match="nothing was changed"):
                engine.update(wrong)
        assert engine.complete(request).tokens == before
        engine.update(new.tensors)
        assert engine.complete(request).tokens == expected
        stream = engine.generate(Request(prompt=prompt(2), params=SamplingParams(max_tokens=400, ignore_eos=True)))
        next(stream)
        engine.update({"norm.weight": new.tensors["norm.weight"]})  # while a request runs, which goes on
        assert sum(len(event.tokens) for event in stream) > 300
        assert engine.complete(request).tokens == expected


def test_updates_do_not_take_more_memory_each():
    def resident() -> int:
        return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) << 10

    config = dataclasses.replace(TINY, dim=512, ffn_dim=2048, heads=8, kv_heads=8, head_dim=64)
    weights = [random_checkpoint(config, seed) for seed in (1, 2)]
    size = sum(t.nbytes for t in weights[0].tensors.values())
    with Engine(open_backend(weights[0], "native", threads=1, cache_tokens=64), weights[0].tokenizer) as engine:
        engine.update(weights[1].tensors)
        before = resident()
        for i in range(6):
            engine.update(weights[i % 2].tensors)
        assert resident() - before < size
