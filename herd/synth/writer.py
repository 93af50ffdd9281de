"""Who writes: a model on herd's engine, or one behind an OpenAI-compatible URL. Both take questions as there is room and give replies as they come."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from herd.engine.agent import Agent, Offer, Turns
from herd.engine.engine import Engine
from herd.engine.grammar import json_grammar
from herd.engine.remote import Remote
from herd.engine.request import Completion, Event, Request, SamplingParams
from herd.engine.schemas import relaxed
from herd.errors import (
    ConfigError,
    ConstraintError,
    EngineStoppedError,
    HerdError,
    MissingDependencyError,
    RequestError,
)
from herd.synth.step import Ask, Reply
from herd.text.chat_format import ChatFormat
from herd.tools import ToolBox


class Asked(NamedTuple):
    """A question with the number of its row and its seed."""

    number: int
    ask: Ask
    seed: int


Take = Callable[[], Asked | None]
"""The next question; None when there is none now. Replies that are given may make new ones."""


class Writer(Protocol):
    """Anything that answers questions, in any order."""

    @property
    def card(self) -> dict[str, str]:
        """What the data's card says of the model."""
        ...

    def run(self, take: Take) -> Iterator[tuple[int, list[Reply]]]:
        """All replies to a question, with its row's number, until there are no more questions. A refused one comes with its
        `problem`; HerdError when nothing can be answered any more.
        """
        ...


def params_of(ask: Ask, seed: int) -> SamplingParams:
    """How a question's tokens are chosen."""
    return SamplingParams(temperature=ask.temperature, top_p=ask.top_p, max_tokens=ask.max_tokens, n=ask.n, seed=seed)


def parsed(ask: Ask, text: str) -> Reply:
    """A whole reply; with a schema its value, or what is wrong with it."""
    if ask.schema is None:
        return Reply(text=text.strip())
    import jsonschema

    try:
        value = json.loads(text)
        jsonschema.validate(value, ask.schema)
    except (ValueError, RecursionError) as error:
        return Reply(text=text, problem=f"not JSON ({error})", rule="schema")
    except jsonschema.ValidationError as error:
        return Reply(text=text, problem=f"not as the schema says ({error.message[:200]})", rule="schema")
    return Reply(text=text, value=value)


@dataclass
class _Open:
    """A question that the engine is at."""

    asked: Asked
    turns: Turns
    said: int  # messages that were there before
    replies: dict[int, Reply] = field(default_factory=dict)
    tokens: int = 0


@dataclass
class EngineWriter:
    """A model on our engine. With `box` the questions that ask for tools may call what is in it."""

    engine: Engine
    format: ChatFormat
    card: dict[str, str]
    box: ToolBox = field(default_factory=ToolBox)

    def __post_init__(self) -> None:
        self._plain = Agent(self.engine, self.format)
        self._tooled = Agent(self.engine, self.format, self.box)
        self._open: dict[str, _Open] = {}
        self._again: deque[_Open] = deque()
        self._refused: deque[tuple[int, list[Reply]]] = deque()

    def run(self, take: Take) -> Iterator[tuple[int, list[Reply]]]:
        """See `Writer`. Replies do not depend on what else is asked at the time."""
        while (request := self._request(take)) is not None:
            for completion in self.engine.run(self._requests(request, take)):
                done = self._take(completion)
                if done is not None:
                    yield done
                while self._refused:
                    yield self._refused.popleft()
            while self._refused:
                yield self._refused.popleft()
        while self._refused:
            yield self._refused.popleft()

    def _requests(self, first: Request, take: Take) -> Iterator[Request]:
        """Requests until there is nothing to ask just now; what is asked later goes into the engine's next run."""
        request: Request | None = first
        while request is not None:
            yield request
            request = self._request(take)

    def _request(self, take: Take) -> Request | None:
        while True:
            if self._again:
                one = self._again.popleft()
            else:
                asked = take()
                if asked is None:
                    return None
                made = self._begin(asked)
                if made is None:
                    continue
                one = made
            key = str(one.asked.number)
            try:
                request = one.turns.request()
                if not one.asked.ask.tools:
                    params = msgspec.structs.replace(request.params, show_special=False)
                    request = msgspec.structs.replace(request, params=params)
            except (ConfigError, RequestError) as error:
                self._refuse(one.asked, error)
                continue
            self._open[key] = one
            return msgspec.structs.replace(request, id=key)

    def _begin(self, asked: Asked) -> _Open | None:
        ask = asked.ask
        try:
            held = None if ask.schema is None else json_grammar(relaxed(ask.schema)[0])
            agent = self._tooled if ask.tools else self._plain
            turns = agent.turns(
                ask.messages, params_of(ask, asked.seed), Offer(choice=ask.tools or "none"), grammar=held
            )
        except (ConfigError, RequestError) as error:
            self._refuse(asked, error)
            return None
        return _Open(asked, turns, len(turns.messages))

    def _refuse(self, asked: Asked, error: HerdError) -> None:
        if isinstance(error, EngineStoppedError):
            raise error
        self._refused.append((asked.number, [Reply(problem=str(error))]))

    def _take(self, completion: Completion) -> tuple[int, list[Reply]] | None:
        """Put a completion with its question's others; all of them when it is the last."""
        one = self._open[completion.request.id]
        ask = one.asked.ask
        if completion.error is not None and not isinstance(completion.error, RequestError | ConstraintError):
            raise completion.error
        one.tokens += len(completion.tokens)
        if completion.error is not None:
            reply = Reply(problem=str(completion.error))
        elif completion.finish_reason != "stop":
            reply = Reply(text=completion.text, problem="no end within its tokens", rule="cut_off")
        elif ask.tools:
            ended = self._tool_reply(one, completion)
            if ended is None:
                return None
            reply = ended
        else:
            reply = parsed(ask, completion.text)
        one.replies[completion.index] = msgspec.structs.replace(reply, tokens=len(completion.tokens))
        if len(one.replies) < ask.n:
            return None
        del self._open[completion.request.id]
        return one.asked.number, [one.replies[i] for i in range(ask.n)]

    def _tool_reply(self, one: _Open, completion: Completion) -> Reply | None:
        """Run what a reply calls; None while the model goes on."""
        turns = one.turns
        event = Event(
            request=completion.request.id, index=0, text=completion.text, tokens=completion.tokens,
            finish_reason=completion.finish_reason, usage=completion.usage,
        )  # fmt: skip
        list(turns.push(event))
        for call in turns.due():
            turns.answer(call, self.box.run(call, turns.seconds_left()))
        ends = list(turns.end())
        if turns.more:
            self._again.append(one)
            return None
        said = tuple(turns.messages[one.said :])
        if any(part.reason not in (None, "stop") for part in ends):
            return Reply(problem="no end within its tokens", rule="cut_off", messages=said)
        if not said or said[-1].role != "assistant" or said[-1].tool_calls:
            return Reply(problem="no answer after its tools", rule="cut_off", messages=said)
        return Reply(text=said[-1].content.strip(), messages=said)


@dataclass
class RemoteWriter:
    """A model behind a URL, on `workers` connections. Tools are herd's engine's alone."""

    remote: Remote
    card: dict[str, str]
    workers: int = 16

    def run(self, take: Take) -> Iterator[tuple[int, list[Reply]]]:
        """See `Writer`; whether a seed gives the same reply again is the server's doing."""
        with self.remote, ThreadPoolExecutor(self.workers, "herd-synth") as pool:
            open_: dict[Future[list[Reply]], int] = {}
            try:
                while True:
                    while len(open_) < 2 * self.workers and (asked := take()) is not None:
                        open_[pool.submit(self._one, asked)] = asked.number
                    if not open_:
                        return
                    for future in wait(open_, return_when=FIRST_COMPLETED).done:
                        yield open_.pop(future), future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, asked: Asked) -> list[Reply]:
        ask = asked.ask
        body: dict[str, Any] = {
            "messages": [{"role": m.role, "content": m.content} for m in ask.messages],
            "temperature": ask.temperature, "top_p": ask.top_p, "n": ask.n, "seed": asked.seed,
        }  # fmt: skip
        if ask.max_tokens is not None:
            body["max_tokens"] = ask.max_tokens
        if ask.schema is not None:
            shape = {"name": "reply", "schema": ask.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        try:
            found = self.remote.post("/chat/completions", body)
        except RequestError as error:
            return [Reply(problem=str(error))]
        return [_remote_reply(ask, choice) for choice in found.get("choices") or []] or [Reply(problem="no choices")]


def _remote_reply(ask: Ask, choice: Any) -> Reply:
    try:
        text, reason = choice["message"]["content"] or "", choice["finish_reason"]
    except (KeyError, TypeError):
        return Reply(problem="the server's answer is not as OpenAI's")
    return (
        parsed(ask, text) if reason == "stop" else Reply(text=text, problem="no end within its tokens", rule="cut_off")
    )


def check_schema_support() -> None:
    """MissingDependencyError where replies cannot be held to a schema, or looked at again."""
    try:
        import jsonschema  # noqa: F401
        import llguidance  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"synthetic data needs {error.name}; pip install 'llama-herd[synth]'") from error
