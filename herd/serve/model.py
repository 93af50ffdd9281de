"""The model that is served, and how a reply of it is made: prompt, constraint, generation, calls of tools."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from herd.engine.engine import Engine
from herd.engine.grammar import Grammars, forced_calls, free_calls
from herd.engine.request import Constraint, Event, FinishReason, Request, SamplingParams, TokenLogprob, Usage
from herd.errors import HerdError
from herd.serve.errors import ApiError
from herd.serve.metrics import Metrics
from herd.text.chat_format import ChatFormat
from herd.text.messages import Message, Tool, ToolCall
from herd.text.tool_calls import ReplyParser
from herd.tools import BUILTIN, ToolBox
from herd.weights.presets import Preset

MAX_STEPS = 8
"""Replies that may follow one another while the server runs tools."""


@dataclass
class Served:
    """One model behind the API. `toolbox` are the tools that the server itself runs."""

    name: str
    engine: Engine
    format: ChatFormat | None  # None: a base model without a chat format
    preset: Preset
    metrics: Metrics
    toolbox: ToolBox = field(default_factory=ToolBox)
    max_prompt: int | None = None  # tokens
    timeout: float | None = None  # seconds, for requests that name none
    created: int = field(default_factory=lambda: int(time.time()))
    _grammars: Grammars | None = None
    _making: threading.Lock = field(default_factory=threading.Lock)

    def constraint(self, grammar: str) -> Callable[[], Constraint]:
        """What holds a reply to a grammar. It may take a moment: call it on a thread."""
        with self._making:
            if self._grammars is None:
                self._grammars = Grammars(self.engine.tokenizer, self.engine.backend.config.vocab)
        return self._grammars.constraint(grammar)

    def chat_format(self) -> ChatFormat:
        """The chat format; ApiError for a model without one."""
        if self.format is None:
            raise ApiError(400, f"{self.name} has no chat format; use /v1/completions", code="no_chat_format")
        return self.format

    def warm_up(self) -> None:
        """Touch all weights and make the grammars' tables once, so that the first clients do not wait for them."""
        self.constraint('start: "x"')
        self.engine.complete(Request(prompt=[0], params=SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)))

    def close(self) -> None:
        """Stop the engine and the tools."""
        if self._grammars is not None:
            self._grammars.close()
        self.toolbox.close()
        self.engine.close()


class Limits(msgspec.Struct, frozen=True):
    """How a request is treated, beside its sampling: seconds that it may take, and its place in the line."""

    timeout: float | None = None
    priority: int = 0


def limits(served: Served, body: Any = None) -> Limits:
    """The limits of a request: no longer than the server allows, and no place before others."""
    timeout, priority = getattr(body, "timeout", None), getattr(body, "priority", 0)
    if timeout is not None and not timeout > 0:
        raise ApiError(400, f"timeout is {timeout}; expected seconds above 0", param="timeout")
    if not 0 <= priority < 2**31:
        raise ApiError(400, f"priority is {priority}; expected 0, the first in line, or more", param="priority")
    allowed = [seconds for seconds in (timeout, served.timeout) if seconds is not None]
    return Limits(min(allowed, default=None), priority)


class Offer(msgspec.Struct, frozen=True):
    """The functions that the client offers, and what the model must do with them."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"  # auto, none, required, or the name of one
    parallel: bool = True


class Part(msgspec.Struct, frozen=True):
    """The next piece of reply `index`: text, a call for the client, a call that the server ran, or its end."""

    index: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    call: ToolCall | None = None
    ran: tuple[ToolCall, str] | None = None
    reason: FinishReason | None = None
    usage: Usage | None = None


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
    chat = served.chat_format()
    asked = {tool.name for tool in offer.tools}
    tools = (*offer.tools, *(t for t in served.toolbox.tools if t.name not in asked))
    own = served.toolbox.names() - asked
    if offer.choice == "none":
        tools = ()
    if own and tools and params.n > 1:
        raise ApiError(400, "n above 1 does not go with tools that the server runs", param="n")
    conversation = list(messages)
    trained = {ours: name for ours, name in BUILTIN.items() if ours in own} if chat.show_special and tools else {}
    builtin = list(trained.values())
    functions = [t for t in tools if t.name not in trained or offer.choice in (t.name, "required")]
    known = frozenset(t.name for t in tools) | (own if tools else frozenset())
    ends = None if limits.timeout is None else time.monotonic() + limits.timeout
    generated = 0  # tokens, in the steps before this one
    for step in range(MAX_STEPS):
        encoded = await asyncio.to_thread(chat.encode, conversation, tools=functions, builtin_tools=builtin)
        prompt = encoded.tokens
        check_prompt(served, len(prompt))
        held = grammar or _call_grammar(functions, offer, first=step == 0, python_tag=chat.show_special)
        request = Request(
            prompt=prompt, params=msgspec.structs.replace(params, show_special=chat.show_special),
            constraint=None if held is None else await asyncio.to_thread(served.constraint, held),
            priority=limits.priority, deadline=None if ends is None else max(0.001, ends - time.monotonic()),
        )  # fmt: skip
        parsers = [ReplyParser(known) if tools else None for _ in range(params.n)]
        turn = _Turn()
        async for event in generate(served, request):
            parser = parsers[event.index]
            pieces: list[str | ToolCall] = [event.text] if parser is None else parser.push(event.text)
            if event.finish_reason and parser is not None:
                pieces += parser.finish(cut_off=event.finish_reason != "stop")
            scores = event.logprobs
            for piece in pieces:
                if isinstance(piece, str):
                    if piece or scores:
                        yield Part(event.index, piece, scores)
                        turn.said += piece
                        scores = ()
                elif piece.name in own:
                    turn.calls.append(piece)
                else:
                    turn.asked_client = True
                    yield Part(event.index, call=piece)
            if scores:
                yield Part(event.index, logprobs=scores)
            if event.usage is not None:
                turn.end = Part(
                    event.index, reason=event.finish_reason,
                    usage=msgspec.structs.replace(event.usage, completion=generated + event.usage.completion),
                )  # fmt: skip
                if not turn.calls:
                    yield turn.end
        if not turn.calls or turn.end is None or turn.end.usage is None:
            return
        generated = turn.end.usage.completion
        tagged = parsers[0] is not None and parsers[0].python_tag
        conversation.append(Message("assistant", turn.said, tuple(turn.calls), bool(builtin), tagged))
        for call in turn.calls:
            output = await asyncio.to_thread(served.toolbox.run, call)
            yield Part(0, ran=(call, output))
            conversation.append(Message("ipython", output))
        if turn.asked_client or step == MAX_STEPS - 1:
            yield turn.end
            return


@dataclass
class _Turn:
    """One reply while it comes: its text, the calls that the server will run, how it ended."""

    said: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    asked_client: bool = False
    end: Part | None = None


def check_prompt(served: Served, length: int) -> None:
    """ApiError for a prompt longer than this server takes."""
    if served.max_prompt is not None and length > served.max_prompt:
        raise ApiError(
            400, f"the prompt has {length:,} tokens; this server takes {served.max_prompt:,}",
            code="context_length_exceeded",
        )  # fmt: skip


def _call_grammar(tools: Sequence[Tool], offer: Offer, *, first: bool, python_tag: bool) -> str | None:
    """What holds a reply's calls to the tools' schemas; forced calls are forced once, not after each result."""
    if not tools:
        return None
    if offer.choice in ("auto", "none") or not first:
        return free_calls(tools, python_tag=python_tag)
    chosen = tools if offer.choice == "required" else [t for t in tools if t.name == offer.choice]
    return forced_calls(chosen, several=offer.parallel and offer.choice == "required")


def sampling(served: Served, body: Any, **values: Any) -> SamplingParams:
    """Sampling parameters of a request; what it leaves open is the model's preset. ApiError names what is wrong."""
    stop = body.stop if getattr(body, "stop", None) is not None else []
    found: dict[str, Any] = {
        **served.preset.params(), "stop": (stop,) if isinstance(stop, str) else tuple(stop),
    }  # fmt: skip
    for name in (
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed",
        "n", "ignore_eos",
    ):  # fmt: skip
        value = getattr(body, name, None)
        if value is not None:
            found[name] = value
    for token, bias in (getattr(body, "logit_bias", None) or {}).items():
        if not token.isdecimal():
            raise ApiError(400, f"logit_bias: {token!r} is not a token's number", param="logit_bias")
        found.setdefault("logit_bias", {})[int(token)] = bias
    found |= {name: value for name, value in values.items() if value is not None}
    try:
        params = SamplingParams(**found)
        params.check(served.engine.backend.config.vocab)
    except (HerdError, OverflowError) as error:
        raise ApiError(400, str(error), param=str(error).split()[0].rstrip(":")) from error
    if params.n > 128:
        raise ApiError(400, f"n is {params.n}; expected 1 to 128", param="n")
    return params


def check_model(served: Served, name: str) -> None:
    """ApiError when a request is for another model."""
    if name and name != served.name:
        raise ApiError(
            404,
            f"the model {name!r} is not served here; this is {served.name!r}",
            param="model",
            code="model_not_found",
        )


def ensure_finished(reason: FinishReason | None) -> None:
    """ApiError for a reply that was ended from outside."""
    if reason == "deadline":
        raise ApiError(504, "the request's time was up before the reply was complete", code="timeout")
    if reason == "cancelled":
        raise ApiError(503, "the server is shutting down", code="shutdown")
