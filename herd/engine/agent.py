"""The agent loop: messages in, parts out. A model replies, the tools that it calls are run, and it goes on.

Chat and server use it, and so does all else in which a model calls tools. `Agent.reply` waits on the caller's thread,
`Agent.areply` in asyncio; what happens between the waits stands once, in `Turns`.
"""

import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from herd.engine.engine import Engine
from herd.engine.open_call import OpenCall
from herd.engine.output import ContentScores
from herd.engine.request import Constraint, Event, FinishReason, Request, SamplingParams, TokenLogprob, Usage
from herd.errors import MissingDependencyError, RequestError
from herd.text.chat_format import ChatFormat
from herd.text.messages import Message, Tool, ToolCall
from herd.text.tokenizer import decode
from herd.text.tool_calls import ReplyParser
from herd.tools import BUILTIN, ToolBox

if TYPE_CHECKING:
    from herd.engine.grammar import Grammars

MAX_STEPS = 8
"""Replies that may follow one another while tools are run."""
_REST = 256  # tokens of context that a tool's result leaves for what follows


class ToolResult(msgspec.Struct, frozen=True):
    """What running a call gave."""

    call: ToolCall
    output: str


class Offer(msgspec.Struct, frozen=True):
    """Functions that the caller answers itself, beside those of the agent's box, and what the model must do with them.

    `choice` is auto, none, required or a function's name. Only the functions of `allowed` may be called, if it is given.
    A reply that is no call is held to the JSON schema `content`, if that is given. `variables` are for the chat template.
    """

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    allowed: frozenset[str] | None = None
    content: dict[str, object] | None = None
    variables: dict[str, object] | None = None


class Part(msgspec.Struct, frozen=True):
    """The next piece of reply `index`.

    A call comes as its name in `opens`, the JSON of its arguments in pieces, then whole in `call`; one that the end of the
    reply cut off never comes whole. A call that is `ours` is run by the agent: it comes in `call` alone, its `result` follows.
    `reason` and `usage`, of all steps together, come last; `by_text` says that a stop string ended it.
    """

    index: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    opens: str = ""
    arguments: str = ""
    call: ToolCall | None = None
    ours: bool = False
    result: ToolResult | None = None
    reason: FinishReason | None = None
    by_text: bool = False
    usage: Usage | None = None


@dataclass
class Agent:
    """A model with its tools. Calls are held to the tools' schemas where llguidance (of the serve extra) is installed."""

    engine: Engine
    format: ChatFormat
    box: ToolBox = field(default_factory=ToolBox)
    grammars: "Grammars | None" = None  # made when first needed, if not given
    _making: threading.Lock = field(default_factory=threading.Lock)

    def constraint(self, grammar: str) -> Callable[[], Constraint]:
        """What holds a reply to a grammar. It may take a moment. MissingDependencyError without llguidance."""
        from herd.engine.grammar import Grammars

        with self._making:
            if self.grammars is None:
                self.grammars = Grammars(self.engine.tokenizer, self.engine.config.vocab)
        return self.grammars.constraint(grammar)

    def turns(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        offer: Offer | None = None,
        *,
        grammar: str | None = None,
        prefill: str = "",
        priority: int = 0,
        seconds: float | None = None,
    ) -> "Turns":
        """A reply that is to be made, beginning with `prefill`; RequestError for one that cannot be."""
        return Turns(
            self,
            messages,
            params,
            offer or Offer(),
            grammar=grammar,
            prefill=prefill,
            priority=priority,
            seconds=seconds,
        )

    def reply(self, turns: "Turns", run: Callable[[ToolCall], str] | None = None) -> Generator[Part]:
        """The reply, and what tools gave, as they come. `run` runs a tool in place of the box."""
        while turns.more:
            for event in self.engine.generate(turns.request()):
                yield from turns.push(event)
            for call in turns.due():
                yield turns.begin(call)
                yield turns.answer(call, run(call) if run is not None else self.box.run(call, turns.seconds_left()))
            yield from turns.end()

    async def areply(
        self,
        turns: "Turns",
        ask: Callable[[], Awaitable[Request]],
        generate: Callable[[Request], AsyncIterator[Event]],
        run: Callable[[ToolCall, float | None], Awaitable[str]],
    ) -> AsyncGenerator[Part]:
        """`reply` for asyncio. `ask` gives `turns.request()` and `run` what a tool gives, both on threads of the caller's;
        `generate` is the engine's `agenerate`, or passes its events on.
        """
        while turns.more:
            async for event in generate(await ask()):
                for part in turns.push(event):
                    yield part
            for call in turns.due():
                yield turns.begin(call)
                yield turns.answer(call, await run(call, turns.seconds_left()))
            for part in turns.end():
                yield part


@dataclass
class _Reply:
    """One reply while it comes."""

    parser: ReplyParser | None
    scores: ContentScores
    stream: OpenCall | None
    said: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    end: Part | None = None


class Turns:
    """The replies to one conversation. While `more`: `request`, `push` each of its events, `begin` and `answer` each call that
    is `due`, `end`.

    `messages` grows by what is said and what tools give, for a single reply (`n` of 1). `grammar` holds a reply's whole text.
    """

    def __init__(
        self,
        agent: Agent,
        messages: Sequence[Message],
        params: SamplingParams,
        offer: Offer,
        *,
        grammar: str | None,
        prefill: str,
        priority: int,
        seconds: float | None,
    ) -> None:
        if len(messages) > agent.engine.max_length:  # said before work that grows with them
            raise RequestError(
                f"{len(messages):,} messages have more tokens than the context of {agent.engine.max_length:,}",
                param="messages", code="context_length_exceeded",
            )  # fmt: skip
        self.messages, self.more = list(messages), True
        self._agent, self._offer, self._grammar, self._priority, self._prefill = (
            agent,
            offer,
            grammar,
            priority,
            prefill,
        )
        self._params = msgspec.structs.replace(params, show_special=agent.format.show_special, echo=False)
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._step = self._generated = self._room = 0
        self._asked = self._come = 0  # tokens of the prompt, and those that have come in all
        self._replies: list[_Reply] = []
        asked = {tool.name for tool in offer.tools}
        tools = () if offer.choice == "none" else (*offer.tools, *(t for t in agent.box.tools if t.name not in asked))
        self._own = agent.box.names() - asked if tools else frozenset()
        if self._own and params.n > 1:
            raise RequestError("n above 1 does not go with tools that herd runs", param="n")
        trained = {ours: name for ours, name in BUILTIN.items() if ours in self._own and agent.format.show_special}
        self._builtin = list(trained.values())
        self._functions = [t for t in tools if t.name not in trained or offer.choice in (t.name, "required")]
        self._known = frozenset(t.name for t in tools) | self._own
        if offer.allowed is not None:
            self._known &= offer.allowed

    def seconds_left(self) -> float | None:
        """Seconds until the time is up; None without a limit."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    @property
    def replies(self) -> int:
        """How many replies are made to the conversation."""
        return self._params.n

    def so_far(self) -> Usage:
        """What the replies have cost until now, for those that are left before their end."""
        return Usage(self._asked, self._come, 0)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation with these tools."""
        encoded = self._agent.format.encode(
            messages, tools=self._functions, builtin_tools=self._builtin, variables=self._offer.variables
        )
        return encoded.tokens

    def request(self) -> Request:
        """What the engine is asked next. It takes processor time."""
        agent, params = self._agent, self._params
        prompt = self.prompt(self.messages)
        if self._prefill and not self._step:
            prompt = [*prompt, *agent.engine.tokenizer.encode(self._prefill)]
        self._room, self._asked = agent.engine.max_length - len(prompt), len(prompt)
        if self._step:  # what is left of the reply's limit, and of the context
            left = self._room if params.max_tokens is None else min(self._room, params.max_tokens - self._generated)
            params = msgspec.structs.replace(params, max_tokens=max(1, left))
        constraint, held = self._constraint()
        self._replies = [
            _Reply(
                ReplyParser(self._known, frozenset(self._builtin)) if self._known else None,
                ContentScores(agent.engine.tokenizer, show_special=params.show_special),
                OpenCall(self._known, quiet=self._own) if held else None,
            )
            for _ in range(params.n)
        ]
        return Request(
            prompt=prompt, params=params, constraint=constraint, priority=self._priority, deadline=self.seconds_left()
        )

    def _constraint(self) -> tuple[Callable[[], Constraint] | None, bool]:
        """What holds the next reply, and whether its calls are held to their schemas."""
        if self._grammar is not None:
            return self._agent.constraint(self._grammar), False
        offer = self._offer
        tools = [t for t in self._functions if offer.allowed is None or t.name in offer.allowed]
        forced = offer.choice not in ("auto", "none") and not self._step  # once, not after each result
        if not tools and offer.content is None:
            return None, False
        try:
            from herd.engine.grammar import content_or_calls, forced_calls, free_calls

            if forced:
                asked = [t for t in tools if t in offer.tools] or tools  # who requires a call waits for one of its own
                chosen = asked if offer.choice == "required" else [t for t in tools if t.name == offer.choice]
                held = forced_calls(chosen, several=offer.parallel and offer.choice == "required")
            elif offer.content is not None:
                held = content_or_calls(offer.content, tools, several=offer.parallel)
            else:
                held = free_calls(tools, several=offer.parallel, python_tag=self._agent.format.show_special)
            return self._compiled(held, tools), True
        except MissingDependencyError:
            if forced or offer.content is not None:
                raise
            return None, False

    def _compiled(self, held: str, tools: Sequence[Tool]) -> Callable[[], Constraint]:
        """The grammar of calls; RequestError names the function that it cannot be made for."""
        from herd.engine.grammar import forced_calls

        try:
            return self._agent.constraint(held)
        except RequestError:
            for tool in tools:
                try:
                    self._agent.constraint(forced_calls([tool], several=False))
                except RequestError as error:
                    raise RequestError(f"tools: the function {tool.name!r}: {error}", param="tools") from error
            raise

    def push(self, event: Event) -> Iterator[Part]:
        """What an event of the engine's completes."""
        reply, index = self._replies[event.index], event.index
        self._come += len(event.tokens)
        reply.scores.push(event)
        if reply.stream is not None and (more := reply.stream.push(event.text)):
            yield Part(index, arguments=more)
        cut_off = event.finish_reason not in (None, "stop")
        pieces: list[str | ToolCall] = [event.text]
        if reply.parser is not None:
            pieces = reply.parser.push(event.text)
            if event.finish_reason is not None:
                pieces += reply.parser.finish(cut_off=cut_off)
        for piece in pieces:
            yield from self._piece(reply, index, piece, cut_off)
        if reply.stream is not None and reply.parser is not None and (opened := reply.stream.look(reply.parser)):
            yield Part(index, opens=opened[0], arguments=opened[1])
        if event.finish_reason is not None:
            yield from self._ended(reply, event)

    def _piece(self, reply: _Reply, index: int, piece: str | ToolCall, cut_off: bool) -> Iterator[Part]:
        was_open = reply.stream is not None and reply.stream.close()
        if isinstance(piece, str):
            reply.said += piece
            scores = reply.scores.of(piece)
            if (piece or scores) and not (was_open and cut_off):  # the beginning of a call has been told already
                yield Part(index, piece, scores)
            return
        reply.calls.append(piece)
        reply.scores.skip()
        if piece.name in self._own:
            return  # told when it is run
        if was_open:
            yield Part(index, call=piece)
        else:
            yield Part(index, opens=piece.name, arguments=_json(piece), call=piece)

    def _ended(self, reply: _Reply, event: Event) -> Iterator[Part]:
        """The end of a reply; it is kept back while calls are to be run."""
        usage = event.usage or Usage(0, 0, 0)
        total = msgspec.structs.replace(usage, completion=self._generated + usage.completion)
        stops = self._agent.engine.tokenizer.stop_ids
        by_text = event.finish_reason == "stop" and not (event.tokens and event.tokens[-1] in stops)
        reply.end = Part(event.index, reason=event.finish_reason, by_text=by_text, usage=total)
        if self._params.n == 1:
            eom = self._agent.engine.tokenizer.special_tokens.get("<|eom_id|>")
            expects = bool(event.tokens) and event.tokens[-1] == eom
            tagged = reply.parser.python_tag if reply.parser is not None and reply.calls else None
            said = reply.said if self._step else self._prefill + reply.said
            self.messages.append(Message("assistant", said, tuple(reply.calls), expects, tagged))
        if not self.due():
            yield reply.end

    def due(self) -> list[ToolCall]:
        """The calls of a reply that has ended which are to be run now."""
        reply = self._replies[0]
        if reply.end is None or reply.end.reason in ("cancelled", "deadline"):
            return []
        return [call for call in reply.calls if call.name in self._own]

    def begin(self, call: ToolCall) -> Part:
        """Says that a call is about to run."""
        return Part(0, call=call, ours=True)

    def answer(self, call: ToolCall, output: str) -> Part:
        """Take what a call gave. What the context has no room for is cut off, and the model is told."""
        tokenizer = self._agent.engine.tokenizer
        end = self._replies[0].end
        room = self._room - (end.usage.completion - self._generated if end and end.usage else 0)
        most = max(16, (room - min(_REST, room // 2)) // max(1, len(self.due())))
        if len(output) > most:  # a token is at least a character
            tokens = tokenizer.encode(output)
            if len(tokens) > most:
                output = (
                    decode(tokenizer, tokens[: most - 16]) + f"\n[{len(tokens) - most + 16:,} more tokens left out]"
                )
        self.messages.append(Message("ipython", output))
        return Part(0, result=ToolResult(call, output))

    def end(self) -> Iterator[Part]:
        """After the calls of a step: its end, or on to the next."""
        self.more = False
        reply, due = self._replies[0], self.due()
        if not due or reply.end is None or reply.end.usage is None:
            return
        self._generated = reply.end.usage.completion
        self._step += 1
        spent = self._params.max_tokens is not None and self._generated >= self._params.max_tokens
        late = self._deadline is not None and time.monotonic() > self._deadline - 0.01
        if late:
            yield msgspec.structs.replace(reply.end, reason="deadline")
        elif spent or len(self.prompt(self.messages)) >= self._agent.engine.max_length:
            yield msgspec.structs.replace(reply.end, reason="length")
        elif len(due) < len(reply.calls) or self._step == MAX_STEPS:
            yield reply.end  # the caller's turn to answer, or enough
        else:
            self.more = True


def _json(call: ToolCall) -> str:
    return msgspec.json.encode(call.arguments).decode()
