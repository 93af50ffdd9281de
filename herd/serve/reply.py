"""How a request becomes replies: its sampling, the agent's loop on the server's threads, measured."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from herd.engine.agent import Offer, Part
from herd.engine.request import Event, FinishReason, Request, SamplingParams
from herd.errors import RequestError
from herd.safety.guarded import aguarded
from herd.safety.watch import Watch
from herd.serve.errors import ApiError, late
from herd.serve.schema_check import SchemaCheck
from herd.serve.served import Limits, Served, check_prompt
from herd.text.messages import Message, ToolCall

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "n",
    "ignore_eos",
)  # fmt: skip
_MOST_STOPS, _LONGEST_STOP, _MOST_BIASES = 32, 256, 4096


class Accepted(asyncio.Event):
    """Set when the engine has taken a request; `prompt` is then how many tokens it was given."""

    prompt = 0


async def generate(
    served: Served, requests: Request | list[Request], accepted: Accepted | None = None
) -> AsyncIterator[Event]:
    """Events of requests, measured. `accepted` is set when the engine has taken them, before any event."""
    started = last = time.monotonic()
    first = True
    events = served.engine.agenerate(requests)
    # it submits before it first waits: after one turn of the loop it has been taken or refused
    submitted = asyncio.ensure_future(anext(events))
    coming: asyncio.Future[Event] | None = submitted
    try:
        await asyncio.sleep(0)
        if accepted is not None and not (submitted.done() and submitted.exception() is not None):
            accepted.prompt = sum(len(r.prompt) for r in ([requests] if isinstance(requests, Request) else requests))
            accepted.set()
        with served.meter.in_flight():
            while coming is not None:
                try:
                    event = await coming
                except StopAsyncIteration:
                    return
                now = time.monotonic()
                if event.tokens:
                    served.meter.tokens(len(event.tokens), now - (started if first else last), first=first)
                    first, last = False, now
                if event.usage is not None:
                    served.meter.finished(event.usage)
                coming = None
                yield event
                coming = asyncio.ensure_future(anext(events))
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]


async def reply(
    served: Served,
    messages: Sequence[Message],
    params: SamplingParams,
    offer: Offer,
    limits: Limits,
    *,
    grammar: str | None = None,
    prefill: str = "",
    user: str = "",
    accepted: Accepted | None = None,
    watch: Watch | None = None,
    check: SchemaCheck | None = None,
) -> AsyncIterator[Part]:
    """Replies to a conversation. While the model calls tools of the server they are run and it goes on. `watch` is the Shield's."""
    agent, pools = served.agent(), served.pools
    turns = agent.turns(
        messages, params, offer, grammar=grammar, prefill=prefill, priority=limits.priority, seconds=limits.timeout
    )

    def ask() -> Request:
        request = turns.request()
        check_prompt(served, len(request.prompt))
        return request

    async def run(call: ToolCall, seconds: float | None) -> str:
        def work() -> str:
            return served.toolbox.run(call, seconds)

        try:
            async with asyncio.timeout(seconds):
                return await pools.run("tool", user, work if watch is None else lambda: watch.tool(call, work))
        except TimeoutError:
            return "error: the time was up"

    async def asked() -> Request:
        try:
            async with asyncio.timeout(turns.seconds_left()):
                return await pools.run("prompt", user, ask)
        except TimeoutError:
            raise late() from None

    parts = agent.areply(turns, asked, lambda request: generate(served, request, accepted), run)
    if watch is not None:
        parts = aguarded(watch, parts, turns.so_far, params.n)
    try:
        async with aclosing(parts):
            async for part in parts:
                if check and check.due(part):
                    await pools.run("prompt", user, lambda part=part: check.look(part))  # type: ignore[misc]
                yield part
    finally:
        if watch is not None:
            watch.close()


def sampling(served: Served, body: Any, **values: Any) -> SamplingParams:
    """Sampling parameters of a request; what it leaves open is the model's preset. RequestError names what is wrong."""
    stop = values.pop("stop", None) or getattr(body, "stop", None) or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > _MOST_STOPS or any(len(one) > _LONGEST_STOP for one in stops):
        raise RequestError(
            f"stop: expected at most {_MOST_STOPS} strings of at most {_LONGEST_STOP} characters", param="stop"
        )
    if len(getattr(body, "logit_bias", None) or ()) > _MOST_BIASES:
        raise RequestError(f"logit_bias: expected {_MOST_BIASES:,} tokens at most", param="logit_bias")
    found: dict[str, Any] = {**(served.preset.params() if served.use_preset else {}), "stop": stops}
    found |= {name: value for name in _SAMPLING if (value := getattr(body, name, None)) is not None}
    for token, bias in (getattr(body, "logit_bias", None) or {}).items():
        if not token.isdecimal():
            raise RequestError(f"logit_bias: {token!r} is not a token's number", param="logit_bias")
        found.setdefault("logit_bias", {})[int(token)] = bias
    found |= {name: value for name, value in values.items() if value is not None}
    params = SamplingParams(**found)
    try:
        params.check(served.engine.config.vocab)
    except OverflowError as error:
        raise RequestError(f"a number is too large: {error}") from error
    if params.n > 128:
        raise RequestError(f"n is {params.n}; expected 1 to 128", param="n")
    return params


def ensure_finished(reason: FinishReason | None) -> None:
    """ApiError for a reply that was ended from outside."""
    if reason == "deadline":
        raise late()
    if reason == "cancelled":
        raise ApiError(503, "the server is shutting down", code="shutdown")
