"""POST /v1/completions: plain text or tokens, continued."""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec

from herd.engine.agent import Part
from herd.engine.output import ContentScores
from herd.engine.request import Event, Request, TokenLogprob, Usage
from herd.errors import RequestError
from herd.safety.guarded import aguarded
from herd.safety.watch import Watch
from herd.serve.gate import Share
from herd.serve.job import add, held_text, several, told, usage, watched
from herd.serve.reply import Accepted, ensure_finished, generate, sampling
from herd.serve.schema import CompletionRequest
from herd.serve.served import Served, check_prompt, limits
from herd.serve.stream import in_time
from herd.text.messages import Message
from herd.text.tokenizer import decode, encode_special

MAX_PROMPTS = 64
_BETWEEN = (  # tokens of models that were trained to fill in what is missing: before, after, here
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)  # fmt: skip


class CompletionJob:
    """One request, checked and ready to run. Making it raises RequestError for what cannot be served."""

    def __init__(self, served: Served, body: CompletionRequest, share: Share) -> None:
        self.served, self.body, self.share = served, body, share
        self.n = body.n or 1 if body.n is None else body.n
        best = self.n if body.best_of is None else body.best_of
        if best < self.n or (best > self.n and body.stream):
            raise RequestError(f"best_of is {best}; expected n or more, and no stream", param="best_of")
        self.params = sampling(
            served, body, max_tokens=16 if body.max_tokens is None else body.max_tokens, echo=body.echo, n=best,
            logprobs=0 if body.logprobs is None and best > self.n else body.logprobs,
        )  # fmt: skip
        self.limits = limits(served, body, share.begun)
        given = several(body.prompt, "prompt")
        if len(given) > MAX_PROMPTS:
            raise RequestError(f"prompt has {len(given)} prompts; expected {MAX_PROMPTS} at most", param="prompt")
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.watch, given = self._watched(given, share.user)
        self.prompts = [self._tokens(prompt) for prompt in given]
        for prompt in self.prompts:
            check_prompt(served, len(prompt))
        self.grammar = held_text(body.grammar, body.regex)
        self.accepted, self.replies = Accepted(), len(self.prompts) * best
        self.created = int(time.time())

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        tokenizer = self.served.engine.tokenizer
        if isinstance(prompt, list):
            return prompt
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        if self.body.suffix:
            special = tokenizer.special_tokens
            names = next((names for names in _BETWEEN if all(name in special for name in names)), None)
            if names is None:
                raise RequestError("suffix: this model has no tokens for filling in what is missing", param="suffix")
            before, after, here = (special[name] for name in names)
            return [*start, before, *tokenizer.encode(prompt), after, *tokenizer.encode(self.body.suffix), here]
        tokens = encode_special(tokenizer, prompt) if self.body.special else tokenizer.encode(prompt)
        tokens = tokens if tokens[:1] == start else start + tokens
        return tokens or sorted(tokenizer.stop_ids)[:1]

    async def parts(self) -> AsyncIterator[tuple[int, Event]]:
        """Each choice's events, prompt after prompt in `index`, all prompts at the same time."""
        made = None
        if self.grammar is not None:
            grammar = self.grammar
            async with in_time(self.share, self.served.timeout, self.body):
                made = await self.served.pools.run(
                    "prompt", self.share.user, lambda: self.served.grammars.constraint(grammar)
                )
        requests = [
            Request(
                prompt=prompt, params=self.params, constraint=made, priority=self.limits.priority,
                deadline=self.limits.timeout, id=str(k),
            )
            for k, prompt in enumerate(self.prompts)
        ]  # fmt: skip
        pieces = self._pieces(generate(self.served, requests, self.accepted))
        if self.watch is not None:
            pieces = aguarded(self.watch, pieces, self._so_far, self.replies)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    event = piece.event if isinstance(piece, _Piece) else Event(request="", index=0)
                    yield (
                        piece.index,
                        msgspec.structs.replace(event, text=piece.text, finish_reason=piece.reason, usage=piece.usage),
                    )
        finally:
            if self.watch is not None:
                self.watch.close()

    async def _pieces(self, events: AsyncIterator[Event]) -> AsyncGenerator[Part]:
        """Events as the Shield knows answers: parts of the reply whose number is the choice's."""
        async for event in events:
            self._come += len(event.tokens)
            index = int(event.request) * self.params.n + event.index
            yield _Piece(index, event.text, reason=event.finish_reason, usage=event.usage, event=event)

    def _so_far(self) -> Usage:
        return Usage(sum(map(len, self.prompts)), self._come, 0)

    def _watched(self, given: list[str | list[int]], user: str) -> tuple[Watch | None, list[str | list[int]]]:
        """The Shield's watch over the prompts, and the prompts as the model may see them."""
        self._come = 0  # tokens
        texts = [p if isinstance(p, str) else decode(self.served.engine.tokenizer, p) for p in given]
        watch, clean = watched(self.served, [Message("user", text) for text in texts], id=self.id, user=user)
        same = [p if m.content == text else m.content for p, m, text in zip(given, clean, texts, strict=True)]
        return watch, same

    async def whole(self, parts: AsyncIterator[tuple[int, Event]]) -> dict[str, Any]:
        """The answer in one object: of each prompt the `n` completions that are likeliest a token."""
        made = [_Growing(self, index) for index in range(self.replies)]
        total = Usage(0, 0, 0)
        async for index, event in parts:
            ensure_finished(event.finish_reason)
            made[index].push(event)
            if event.usage is not None:
                total = _sum(total, event.usage, index % self.params.n == 0)
        choices: list[dict[str, Any]] = []
        for first in range(0, self.replies, self.params.n):
            group = made[first : first + self.params.n]
            if self.params.n > self.n:
                group.sort(key=lambda one: one.mean, reverse=True)
            choices += [one.choice(len(choices) + k) for k, one in enumerate(group[: self.n])]
        return told({**self._head(), "choices": choices, "usage": usage(total)}, self.watch)

    async def chunks(self, parts: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[dict[str, Any]]:
        """The answer in the pieces of a stream."""
        total = Usage(0, 0, 0)
        made = [_Growing(self, index) for index in range(self.replies)]
        async for index, event in parts:
            ensure_finished(event.finish_reason)
            if event.usage is not None:
                total = _sum(total, event.usage, index % self.params.n == 0)
            made[index].push(event)
            shown = {**self._head(), "choices": [made[index].choice(index)]}
            yield shown if event.usage is None else told(shown, self.watch)
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield {**self._head(), "choices": [], "usage": usage(total)}

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}


class _Piece(Part, frozen=True, kw_only=True):
    """A part of a completion, with the event that it came in."""

    event: Event


class _Growing:
    """A choice as it grows. `choice` tells what has come since it was last asked."""

    def __init__(self, job: CompletionJob, index: int) -> None:
        self._job, self._tokenizer = job, job.served.engine.tokenizer
        self._prompt = job.prompts[index // job.params.n]
        self._scores = ContentScores(self._tokenizer)
        self._text, self._told = "", 0  # `_told` characters have been told already
        self._new: list[TokenLogprob | None] = []
        self._reason: str | None = None
        self._sum = self._count = 0.0

    @property
    def mean(self) -> float:
        """Mean log-probability of the tokens."""
        return self._sum / max(1, self._count)

    def push(self, event: Event) -> None:
        text = event.text
        if event.prompt_logprobs is not None or (self._job.params.echo and not self._told and not self._text):
            self._new += event.prompt_logprobs or ()
            special = set(self._tokenizer.special_tokens.values())
            shown = b"".join(self._tokenizer.token_bytes(t) for t in self._prompt if t not in special)
            text = text[len(shown.decode("utf-8", "replace")) :]
        self._scores.push(event)
        self._new += self._scores.of(text)
        self._sum += sum(score.logprob for score in event.logprobs)
        self._count += len(event.logprobs)
        self._text += event.text
        self._reason = event.finish_reason

    def choice(self, index: int) -> dict[str, Any]:
        text, self._text = self._text, ""
        logprobs = None
        if self._job.body.logprobs is not None:
            logprobs = self._logprobs()
            self._new = []
        self._told += len(text)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": self._reason}

    def _logprobs(self) -> dict[str, Any]:
        def name(token: int) -> str:
            return self._tokenizer.token_bytes(token).decode("utf-8", "replace")

        names = [name(self._prompt[0] if score is None else score.token) for score in self._new]
        return {
            "tokens": names,
            "token_logprobs": [None if s is None else s.logprob for s in self._new],
            "top_logprobs": [None if s is None else {name(t): value for t, value in s.top} for s in self._new],
            "text_offset": list(_offsets(self._told, names)),
        }


def _offsets(at: int, names: list[str]) -> Iterator[int]:
    for name in names:
        yield at
        at += len(name)


def _sum(total: Usage, part: Usage, first: bool) -> Usage:
    """Usage over prompts and choices: a prompt counts once."""
    summed = add(total, part)
    return msgspec.structs.replace(
        summed, prompt=total.prompt + (part.prompt if first else 0), cached=total.cached + (part.cached if first else 0)
    )
