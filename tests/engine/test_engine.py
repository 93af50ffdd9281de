"""The engine on real models: batching changes nothing, limits are kept, nothing is lost."""

import asyncio
import threading
import time

import msgspec
import pytest

from herd.engine.engine import Engine
from herd.engine.request import Request, SamplingParams
from herd.errors import RequestError
from herd.text.tokenizer import decode

GREEDY = SamplingParams(temperature=0, max_tokens=24)
QUESTIONS = [f"Question {i}: what is {i} plus {i}? Answer:" for i in range(16)]


def ask(engine: Engine, text: str, params: SamplingParams = GREEDY, **more) -> Request:
    return Request(prompt=engine.tokenizer.encode(text), params=params, **more)


def gather(engine: Engine, requests: list[Request]) -> dict[tuple[str, int], list[int]]:
    tokens: dict[tuple[str, int], list[int]] = {}
    for event in engine.generate(requests):
        tokens.setdefault((event.request, event.index), []).extend(event.tokens)
    return tokens


def test_greedy_is_the_same_alone_and_in_a_batch_of_sixteen(engine):
    alone = [engine.complete(ask(engine, q)).tokens for q in QUESTIONS]
    together = gather(engine, [ask(engine, q, id=str(i)) for i, q in enumerate(QUESTIONS)])
    assert [tuple(together[str(i), 0]) for i in range(16)] == alone


def test_a_seeded_sample_is_the_same_in_any_company(engine):
    params = SamplingParams(temperature=0.9, top_p=0.9, seed=42, max_tokens=24, n=3)
    alone = gather(engine, [ask(engine, QUESTIONS[3], params, id="x")])
    others = [ask(engine, q, msgspec.structs.replace(params, seed=i, n=1)) for i, q in enumerate(QUESTIONS)]
    together = gather(engine, [*others[:8], ask(engine, QUESTIONS[3], params, id="x"), *others[8:]])
    for index in range(3):
        assert together["x", index] == alone["x", index]
    assert alone["x", 0] != alone["x", 1]


def test_preemption_changes_nothing(small_engine):
    prompts = [f"{i}" * 60 for i in range(8)]
    params = SamplingParams(temperature=0.8, max_tokens=60, seed=3, ignore_eos=True)
    alone = [small_engine.complete(ask(small_engine, p, params)).tokens for p in prompts]
    before = small_engine.scheduler.preemptions
    together = gather(small_engine, [ask(small_engine, p, params, id=str(i)) for i, p in enumerate(prompts)])
    assert small_engine.scheduler.preemptions > before
    assert [tuple(together[str(i), 0]) for i in range(8)] == alone
    assert small_engine.scheduler.cache.free == small_engine.scheduler.cache.count


def test_the_prefix_of_a_prompt_is_found_again(engine):
    text = "A shared beginning of some length, long enough for several blocks of sixteen tokens each. " * 2
    first = engine.complete(ask(engine, text + "One."))
    second = engine.complete(ask(engine, text + "Two."))
    assert first.usage.cached < 16 or first.usage.cached % 16 == 0
    assert second.usage.cached >= 32
    assert second.usage.cached % 16 == 0
    fan = list(engine.generate(ask(engine, text + "Three!", SamplingParams(n=4, seed=1, max_tokens=2))))
    assert all(e.usage.cached >= 32 for e in fan if e.finish_reason)


def test_stop_strings_and_stop_tokens(engine):
    whole = engine.complete(ask(engine, "1, 2, 3, 4,", SamplingParams(temperature=0, max_tokens=30)))
    cut = engine.complete(ask(engine, "1, 2, 3, 4,", SamplingParams(temperature=0, max_tokens=30, stop=("8",))))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index("8")]
    token = whole.tokens[4]
    by_token = engine.complete(
        ask(engine, "1, 2, 3, 4,", SamplingParams(temperature=0, max_tokens=30, stop_tokens=(token,)))
    )
    assert by_token.tokens == whole.tokens[:5]
    assert by_token.finish_reason == "stop"
    assert decode(engine.tokenizer, whole.tokens[:4]) == by_token.text


def test_echo_and_logprobs_of_the_prompt(engine):
    text = "The capital of France is Paris"
    result = engine.complete(ask(engine, text, SamplingParams(temperature=0, max_tokens=1, echo=True, logprobs=3)))
    assert result.text.startswith(text)
    assert result.prompt_logprobs[0] is None
    assert len(result.prompt_logprobs) == len(engine.tokenizer.encode(text))
    assert all(item.logprob <= item.top[0][1] <= 0 for item in result.prompt_logprobs[1:])
    assert result.logprobs[0].token == result.logprobs[0].top[0][0]
    scored = engine.complete(ask(engine, text, SamplingParams(max_tokens=0, echo=True, logprobs=0)))
    assert scored.tokens == ()
    assert scored.text == text
    for a, b in zip(scored.prompt_logprobs[1:], result.prompt_logprobs[1:], strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


def test_cancelling_and_leaving_free_the_blocks(engine):
    params = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
    for event in engine.generate(ask(engine, "Count:", params)):
        if event.tokens:
            break
    stream = engine.generate(ask(engine, "Count:", params, id="gone"))
    next(stream)
    engine.cancel("gone")
    reasons = [event.finish_reason for event in stream]
    assert reasons[-1] == "cancelled"
    deadline = time.monotonic() + 10
    while engine.scheduler.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.scheduler.cache.free == engine.scheduler.cache.count


def test_deadlines_end_requests(engine):
    result = engine.complete(ask(engine, "Count:", SamplingParams(max_tokens=4000, ignore_eos=True), deadline=0.4))
    assert result.finish_reason == "deadline"


def test_what_cannot_be_served_is_refused_at_the_door(engine):
    limit = engine.max_length
    for request, word in (
        (Request(prompt=[]), "empty"),
        (Request(prompt=[10**6]), "token 1000000"),
        (Request(prompt=[5] * (limit + 1)), f"{limit:,}"),
        (Request(prompt=[5], params=SamplingParams(max_tokens=limit)), f"{limit:,}"),
        (Request(prompt=[5], params=SamplingParams(temperature=-1)), "temperature"),
        (Request(prompt=[5], params=SamplingParams(top_p=0)), "top_p"),
        (Request(prompt=[5], params=SamplingParams(temperature=float("nan"))), "temperature"),
        (Request(prompt=[5], params=SamplingParams(logprobs=10**6)), "logprobs"),
        (Request(prompt=[5], params=SamplingParams(logit_bias={10**7: 1.0})), "logit_bias"),
        (Request(prompt=[5], params=SamplingParams(stop=("",))), "stop"),
        (Request(prompt=[5], deadline=-1.0), "deadline"),
    ):
        with pytest.raises(RequestError, match=word):
            engine.generate(request)
    assert not engine.scheduler.running


def test_many_threads_and_asyncio_at_once(engine):
    expected = engine.complete(ask(engine, QUESTIONS[1])).tokens
    results: list[tuple[int, ...]] = []
    threads = [
        threading.Thread(target=lambda: results.append(engine.complete(ask(engine, QUESTIONS[1])).tokens))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()

    async def one() -> tuple[int, ...]:
        return tuple([t async for e in engine.agenerate(ask(engine, QUESTIONS[1])) for t in e.tokens])

    async def several():
        return await asyncio.gather(*(one() for _ in range(4)))

    found = asyncio.run(several())
    for thread in threads:
        thread.join(timeout=60)
    assert results == [expected] * 4
    assert found == [expected] * 4


def test_unicode_is_never_cut(engine):
    params = SamplingParams(temperature=1.5, max_tokens=120, seed=11, ignore_eos=True)
    events = list(engine.generate(ask(engine, "नमस्ते 😀 สวัสดี", params)))
    text = "".join(e.text for e in events)
    tokens = [t for e in events for t in e.tokens]
    assert text == decode(engine.tokenizer, tokens, special=False)


def test_a_closed_engine_says_so(smollm):
    from herd.engine.open import open_engine

    opened = open_engine(smollm, "torch")
    opened.close()
    opened.close()
    with pytest.raises(RequestError, match="closed"):
        opened.generate(Request(prompt=[5]))
