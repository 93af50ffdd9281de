"""POST /v1/completions: plain text or tokens, continued."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from herd.engine.request import Event, Request, TokenLogprob, Usage
from herd.serve.chat_completions import add, constraint, usage
from herd.serve.errors import ApiError
from herd.serve.reply import ensure_finished, generate, sampling
from herd.serve.schema import CompletionRequest
from herd.serve.served import Served, check_prompt, limits

MAX_PROMPTS = 64


class CompletionJob:
    """One request, checked and ready to run."""

    def __init__(self, served: Served, body: CompletionRequest) -> None:
        self.served, self.body = served, body
        self.params = sampling(
            served, body, max_tokens=16 if body.max_tokens is None else body.max_tokens, logprobs=body.logprobs,
            echo=body.echo,
        )  # fmt: skip
        self.limits = limits(served, body)
        self.prompts = [self._tokens(prompt) for prompt in _prompts(body.prompt)]
        if len(self.prompts) > MAX_PROMPTS:
            raise ApiError(
                400, f"prompt has {len(self.prompts)} prompts; expected {MAX_PROMPTS} at most", param="prompt"
            )
        for prompt in self.prompts:
            check_prompt(served, len(prompt))
        self.grammar = constraint(body, None)
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        tokenizer = self.served.engine.tokenizer
        if isinstance(prompt, list):
            return prompt
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return start + tokenizer.encode(prompt) or sorted(tokenizer.stop_ids)[:1]

    async def parts(self) -> AsyncIterator[tuple[int, Event]]:
        """Each choice's events, prompt after prompt in `index`, all prompts at the same time."""
        made = None
        if self.grammar is not None:
            made = await asyncio.to_thread(self.served.constraint, self.grammar)
        queue: asyncio.Queue[tuple[int, Event] | BaseException | None] = asyncio.Queue()

        async def run(k: int, prompt: list[int]) -> None:
            request = Request(
                prompt=prompt, params=self.params, constraint=made, priority=self.limits.priority,
                deadline=self.limits.timeout,
            )  # fmt: skip
            try:
                async for event in generate(self.served, request):
                    await queue.put((k * self.params.n + event.index, event))
                await queue.put(None)
            except Exception as error:
                await queue.put(error)

        tasks = [asyncio.create_task(run(k, prompt)) for k, prompt in enumerate(self.prompts)]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def whole(self, parts: AsyncIterator[tuple[int, Event]]) -> dict[str, Any]:
        """The answer in one object."""
        count = len(self.prompts) * self.params.n
        events: list[list[Event]] = [[] for _ in range(count)]
        async for index, event in parts:
            ensure_finished(event.finish_reason)
            events[index].append(event)
        total = Usage(0, 0, 0)
        choices = []
        for index, mine in enumerate(events):
            scores = [s for e in mine for s in (*(e.prompt_logprobs or ()), *e.logprobs)]
            choices.append(
                {
                    "index": index, "text": "".join(e.text for e in mine), "finish_reason": mine[-1].finish_reason,
                    "logprobs": None if self.body.logprobs is None else self._logprobs(self.prompts[index // self.params.n], scores),
                }
            )  # fmt: skip
            if mine[-1].usage is not None:
                total = _sum(total, mine[-1].usage, index % self.params.n == 0)
        return {**self._head(), "choices": choices, "usage": usage(total)}

    async def chunks(self, parts: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[dict[str, Any]]:
        """The answer in the pieces of a stream."""
        total = Usage(0, 0, 0)
        seen: dict[int, int] = {}
        async for index, event in parts:
            ensure_finished(event.finish_reason)
            scores = [*(event.prompt_logprobs or ()), *event.logprobs]
            logprobs = None
            if self.body.logprobs is not None:
                logprobs = self._logprobs(self.prompts[index // self.params.n], scores, seen.get(index, 0))
            seen[index] = seen.get(index, 0) + len(event.text)
            choice = {"index": index, "text": event.text, "finish_reason": event.finish_reason, "logprobs": logprobs}
            yield {**self._head(), "choices": [choice]}
            if event.usage is not None:
                total = _sum(total, event.usage, index % self.params.n == 0)
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield {**self._head(), "choices": [], "usage": usage(total)}

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}

    def _logprobs(self, prompt: list[int], scores: list[TokenLogprob | None], offset: int = 0) -> dict[str, Any]:
        def text(token: int) -> str:
            return self.served.engine.tokenizer.token_bytes(token).decode("utf-8", "replace")

        names, offsets = [], []
        for score in scores:
            names.append(text(prompt[0] if score is None else score.token))
            offsets.append(offset)
            offset += len(names[-1])
        return {
            "tokens": names,
            "token_logprobs": [None if s is None else s.logprob for s in scores],
            "top_logprobs": [None if s is None else {text(t): value for t, value in s.top} for s in scores],
            "text_offset": offsets,
        }


def _prompts(prompt: str | list[Any]) -> list[str | list[int]]:
    """The prompts of a request: one or several, text or tokens."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(isinstance(item, int) for item in prompt):
        return [prompt]
    if not prompt or any(isinstance(item, int) for item in prompt):
        raise ApiError(
            400, "prompt is an empty or a mixed list; expected text, tokens, or a list of one of them", param="prompt"
        )
    return list(prompt)


def _sum(total: Usage, part: Usage, first: bool) -> Usage:
    """Usage over prompts and choices: a prompt counts once."""
    summed = add(total, part)
    return Usage(
        total.prompt + (part.prompt if first else 0), summed.completion, total.cached + (part.cached if first else 0)
    )
