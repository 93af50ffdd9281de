"""How a request becomes replies: its sampling, the agent's loop on the server's threads, measured."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from herd.engine.agent import Offer, Part
from herd.engine.request import Event, FinishReason, Request, SamplingParams
from herd.errors import RequestError
from herd.serve.errors import ApiError
from herd.serve.served import Limits, Served, check_prompt
from herd.text.messages import Message

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "n",
    "ignore_eos",
)  # fmt: skip


async def generate(served: Served, request: Request) -> AsyncIterator[Event]:
    """Events of a request, measured."""
    started = last = time.monotonic()
    first = True
    with served.metrics.in_flight():
        async for event in served.engine.agenerate(request):
            now = time.monotonic()
            if event.tokens:
                served.metrics.tokens(len(event.tokens), now - (started if first else last), first=first)
                first, last = False, now
            if event.usage is not None:
                served.metrics.finished(event.usage)
            yield event


async def reply(
    served: Served,
    messages: Sequence[Message],
    params: SamplingParams,
    offer: Offer,
    limits: Limits,
    grammar: str | None = None,
) -> AsyncIterator[Part]:
    """Replies to a conversation. While the model calls tools of the server they are run and it goes on."""
    agent = served.agent()
    turns = agent.turns(
        messages, params, offer, grammar=grammar, priority=limits.priority, seconds=limits.timeout
    )  # fmt: skip

    def ask() -> Request:
        request = turns.request()
        check_prompt(served, len(request.prompt))
        return request

    parts = agent.areply(
        turns,
        lambda: asyncio.to_thread(ask),
        lambda request: generate(served, request),
        lambda call, seconds: asyncio.to_thread(served.toolbox.run, call, seconds),
    )
    async for part in parts:
        yield part


def sampling(served: Served, body: Any, **values: Any) -> SamplingParams:
    """Sampling parameters of a request; what it leaves open is the model's preset. RequestError names what is wrong."""
    stop = getattr(body, "stop", None) or ()
    found: dict[str, Any] = {**served.preset.params(), "stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    found |= {name: value for name in _SAMPLING if (value := getattr(body, name, None)) is not None}
    for token, bias in (getattr(body, "logit_bias", None) or {}).items():
        if not token.isdecimal():
            raise RequestError(f"logit_bias: {token!r} is not a token's number", param="logit_bias")
        found.setdefault("logit_bias", {})[int(token)] = bias
    found |= {name: value for name, value in values.items() if value is not None}
    params = SamplingParams(**found)
    try:
        params.check(served.engine.backend.config.vocab)
    except OverflowError as error:
        raise RequestError(f"a number is too large: {error}") from error
    if params.n > 128:
        raise RequestError(f"n is {params.n}; expected 1 to 128", param="n")
    return params


def ensure_finished(reason: FinishReason | None) -> None:
    """ApiError for a reply that was ended from outside."""
    if reason == "deadline":
        raise ApiError(504, "the request's time was up before the reply was complete", code="timeout")
    if reason == "cancelled":
        raise ApiError(503, "the server is shutting down", code="shutdown")
