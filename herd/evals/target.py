"""What is evaluated: a model on herd's engine, or any OpenAI-compatible URL. Both take questions and give verdict-ready answers.

Log-likelihoods follow lm-evaluation-harness to the letter: spaces at the end of a context go to its continuation; the whole and the context are
encoded apart, and what the whole has more is what is scored; what is too long is cut from the left.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from herd.engine.engine import Engine
from herd.engine.open import open_engine
from herd.engine.remote import Remote
from herd.engine.request import Completion, Request, SamplingParams
from herd.errors import ConfigError, FormatError, RequestError, first_line
from herd.evals.prompts import Item
from herd.text.chat_format import ChatFormat
from herd.text.messages import ToolCall
from herd.text.tokenizer import Tokenizer
from herd.text.tool_calls import parse_reply
from herd.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Answer:
    """What came back for an item: log-likelihoods of its continuations, or a reply with the calls in it; or an error."""

    item: Item
    logprobs: tuple[float, ...] = ()
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    tokens: int = 0  # of prompts and replies that were asked for
    finish: str = ""
    error: str = ""


class Target(Protocol):
    """Anything that answers items, in any order."""

    chat: bool

    @property
    def name(self) -> str:
        """What the run is called after."""
        ...

    def answer(self, items: Iterable[Item]) -> Iterator[Answer]:
        """Answers, as they come; an item that fails has an `error`."""
        ...

    def settings(self) -> dict[str, Any]:
        """What results depend on, for the record."""
        ...


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str, bos: bool) -> tuple[list[int], int]:
    """Tokens of both together, and where the continuation begins."""
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    start = [tokenizer.bos_id] if bos and tokenizer.bos_id is not None else []
    whole = start + tokenizer.encode(stripped + continuation)
    first = len(start) + len(tokenizer.encode(stripped))
    return whole, first


@dataclass
class _Pending:
    """An item some of whose requests are still in the engine."""

    item: Item
    left: int
    logprobs: list[float]
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    tokens: int = 0
    finish: str = ""
    error: str = ""

    def answer(self) -> Answer:
        return Answer(self.item, tuple(self.logprobs), self.text, self.calls, self.tokens, self.finish, self.error)


@dataclass
class EngineTarget:
    """A model on our engine. `format` lays dialogs out where `chat` asks for it; `bos` starts texts with the model's start token."""

    name: str
    engine: Engine
    format: ChatFormat | None = None
    chat: bool = False
    bos: bool = True
    record: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        return {**self.record, "chat": self.chat, "bos": self.bos and self.engine.tokenizer.bos_id is not None, "context": self.engine.max_length}  # fmt: skip

    def answer(self, items: Iterable[Item]) -> Iterator[Answer]:
        """Items are taken as there is room; choices of one question stand together, so that they share what is computed."""
        waiting: dict[str, _Pending] = {}
        refused: list[Answer] = []

        def requests() -> Iterator[Request]:
            for number, item in enumerate(items):
                try:
                    made = list(self._requests(item, str(number)))
                except (ConfigError, RequestError) as error:
                    refused.append(Answer(item, error=str(error)))
                    continue
                waiting[str(number)] = _Pending(item, len(made), [0.0] * len(item.continuations))
                yield from made

        for completion in self.engine.run(requests()):
            key, _, part = completion.request.id.partition(" ")
            pending = waiting[key]
            pending.left -= 1
            pending.tokens += len(completion.request.prompt) + len(completion.tokens)
            if completion.error is not None:
                pending.error = str(completion.error)
            else:
                self._take(pending, completion, part)
            if not pending.left:
                del waiting[key]
                yield pending.answer()
            while refused:
                yield refused.pop()
        yield from refused

    def _requests(self, item: Item, key: str) -> Iterator[Request]:
        tokenizer = self.engine.tokenizer
        if item.task.kind == "rolling":
            yield from self._windows(item, key)
        elif item.continuations:
            pairs = [encode_pair(tokenizer, *pair, self.bos) for pair in item.pairs]
            if all(n == len(w) - 1 and w[:n] == pairs[0][0][:n] for w, n in pairs) and pairs[0][1]:
                # every answer is one token after the same context: one look at it scores them all
                prompt = pairs[0][0][: pairs[0][1]][-self.engine.max_length :]
                yield Request(prompt=prompt, score_tokens=tuple(w[-1] for w, _ in pairs), id=f"{key} all")
                return
            for number, (whole, first) in enumerate(pairs):
                if not first:  # nothing before: the model's start, or end, token stands there
                    whole, first = [self._before(), *whole], 1
                yield self._scoring(whole, first, f"{key} {number}")
        else:
            yield self._generation(item, key)

    def _scoring(self, whole: list[int], first: int, key: str) -> Request:
        """A look at the tokens from `first` on; what is too long is cut from the left. The last token needs not be computed, so that one
        more than the context can be scored.
        """
        cut = max(0, len(whole) - self.engine.max_length - 1)
        whole, first = whole[cut:], max(1, first - cut)
        if len(whole) <= self.engine.max_length:
            return Request(prompt=whole, score_from=first, params=_NOTHING, id=key)
        start = first if first < len(whole) - 1 else None
        return Request(prompt=whole[:-1], score_from=start, score_tokens=(whole[-1],), params=_NOTHING, id=key)

    def _before(self) -> int:
        """What stands before a text that has nothing before it: the declared start token, or else the end token."""
        declared = self.engine.tokenizer.declared
        return declared.bos if declared.bos is not None else min(self.engine.tokenizer.stop_ids, default=0)

    def _windows(self, item: Item, key: str) -> Iterator[Request]:
        """Disjoint windows of the whole context; each is preceded by the last token of the one before, the first by the start token."""
        tokens = self.engine.tokenizer.encode(item.continuations[0])
        room = self.engine.max_length
        before = self._before()
        for first in range(0, len(tokens), room):
            window = tokens[first : first + room]
            # a last short window gets as much before it as fits, as lm-evaluation-harness has it
            lead = tokens[max(0, first - (room - len(window)) - 1) : first] if first else [before]
            yield self._scoring([*lead, *window], len(lead), f"{key} window")

    def _generation(self, item: Item, key: str) -> Request:
        task = item.task
        if item.messages:
            if self.format is None:
                raise ConfigError(f"{self.name} has no chat format, which {task.name} needs")
            prompt = list(self.format.encode(item.messages, tools=item.tools).tokens)
            special = self.format.show_special
        else:
            start = [self.engine.tokenizer.bos_id] if self.bos and self.engine.tokenizer.bos_id is not None else []
            prompt, special = [*start, *self.engine.tokenizer.encode(item.contexts[0])], False
        room = self.engine.max_length - task.max_tokens
        if room < 1:
            raise ConfigError(
                f"{task.name} generates {task.max_tokens:,} tokens; the context is {self.engine.max_length:,}"
            )
        if len(prompt) > room and (
            item.messages or task.made is not None
        ):  # texts are cut, as lm-evaluation-harness does
            raise ConfigError(
                f"{task.name}: the prompt's {len(prompt):,} tokens and {task.max_tokens:,} to generate exceed the context of "
                f"{self.engine.max_length:,}; give a larger --context"
            )
        params = SamplingParams(temperature=0.0, max_tokens=task.max_tokens, stop=item.stop, show_special=special)
        return Request(prompt=prompt[-room:], params=params, id=f"{key} text")

    def _take(self, pending: _Pending, completion: Completion, part: str) -> None:
        """What one request gave: all answers' scores, a window's, one answer's, or a reply."""
        if part == "all":
            pending.logprobs[:] = completion.token_logprobs
        elif part == "text":
            pending.text, pending.finish = completion.text, completion.finish_reason
            if pending.item.tools:
                known = frozenset(tool.name for tool in pending.item.tools)
                pending.text, pending.calls = parse_reply(completion.text, known, cut_off=pending.finish != "stop")
        else:
            found = math.fsum(score.logprob for score in completion.prompt_logprobs or () if score is not None)
            found += math.fsum(completion.token_logprobs)
            pending.logprobs[0 if part == "window" else int(part)] += found


_NOTHING = SamplingParams(max_tokens=0, temperature=0.0)


def engine_target(
    name: str, checkpoint: Checkpoint, chat: bool = False, bos: bool = True, **engine: Any
) -> EngineTarget:
    """A checkpoint on an engine of its own, which the caller closes; `engine` is for `open_engine`."""
    opened = open_engine(checkpoint, **engine)
    try:
        layout = checkpoint.chat_format()
    except FormatError:
        layout = None
    formats = sorted({tensor.format for tensor in checkpoint.tensors.values()})
    record = {"file": str(checkpoint.path), "formats": formats, "backend": opened.backend.name}
    return EngineTarget(name, opened, layout, chat, bos, record)


@dataclass
class UrlTarget:
    """An OpenAI-compatible server. Log-likelihoods need its /completions to echo the prompt with log-probabilities."""

    url: str
    model: str
    key: str | None = None
    chat: bool = True
    workers: int = 8
    timeout: float = 600.0

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def settings(self) -> dict[str, Any]:
        return {"url": self.url, "model": self.model, "chat": self.chat}

    def answer(self, items: Iterable[Item]) -> Iterator[Answer]:
        """Items go out on several connections; an answer that fails says why and ends nothing else."""
        with Remote(self.url, self.model, self.key, self.timeout) as client, ThreadPoolExecutor(self.workers) as pool:
            source = iter(items)
            while batch := list(islice(source, 16 * self.workers)):
                yield from pool.map(lambda item: self._one(client, item), batch)

    def _one(self, client: Remote, item: Item) -> Answer:
        try:
            if item.continuations:
                return Answer(item, tuple(self._logprob(client, *pair) for pair in item.pairs))
            return self._reply(client, item)
        except Exception as error:  # whatever a transport or a server's odd answer raises is this item's
            return Answer(item, error=first_line(error))

    def _logprob(self, client: Remote, context: str, continuation: str) -> float:
        body = {"prompt": context + continuation, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        scores = client.post("/completions", body)["choices"][0]["logprobs"]
        offsets, values = scores["text_offset"], scores["token_logprobs"]
        first = next((i for i, offset in enumerate(offsets) if offset >= len(context.rstrip())), len(offsets))
        return math.fsum(value for value in values[max(first, 1) :] if value is not None)

    def _reply(self, client: Remote, item: Item) -> Answer:
        import json

        task = item.task
        limits = {
            "max_tokens": task.max_tokens,
            "temperature": 0,
            **({"stop": list(item.stop)[:4]} if item.stop else {}),
        }
        if not item.messages:
            choice = client.post("/completions", {"prompt": item.contexts[0], **limits})["choices"][0]
            return Answer(item, text=choice["text"], finish=choice["finish_reason"])
        body: dict[str, Any] = {"messages": [{"role": m.role, "content": m.content} for m in item.messages], **limits}
        if item.tools:
            body["tools"] = [{"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}} for t in item.tools]  # fmt: skip
        choice = client.post("/chat/completions", body)["choices"][0]
        made = choice["message"].get("tool_calls") or ()
        calls = tuple(ToolCall(c["function"]["name"], json.loads(c["function"]["arguments"] or "{}")) for c in made)
        return Answer(item, text=choice["message"].get("content") or "", calls=calls, finish=choice["finish_reason"])
