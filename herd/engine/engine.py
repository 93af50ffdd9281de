"""The engine: takes requests from any thread, runs steps on its own, and hands each caller its events.

Everything that generates text goes through here: chat, server, synthetic data, evaluation, guards.
"""

import itertools
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from herd.engine.backend import Backend, RowResult
from herd.engine.cache import BlockCache
from herd.engine.request import Event, FinishReason, Request, TokenLogprob, Usage
from herd.engine.scheduler import Scheduler, Sequence
from herd.engine.seed import completion_seed
from herd.engine.stop import StopStrings
from herd.errors import EngineStoppedError, QueueFullError, RequestError
from herd.text.tokenizer import StreamDecoder, Tokenizer


class _Completion:
    """A sequence with its text: decodes tokens, holds back what may become a stop string."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, deliver: Callable[[Any], None]) -> None:
        self.sequence = sequence
        self.deliver = deliver
        self.decoder = StreamDecoder(tokenizer)
        self.stop = StopStrings(sequence.params.stop)
        self.pending: list[int] = []
        self.pending_logprobs: list[TokenLogprob] = []
        self.echoed = not sequence.params.echo


class Engine:
    """Serves one model on one backend. Use as a context manager, or call `close`."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        max_sequences: int = 64,
        step_tokens: int = 512,
        max_waiting: int = 100_000,
    ) -> None:
        self.backend, self.tokenizer = backend, tokenizer
        cache = BlockCache(backend.block_count, backend.block_size)
        self.scheduler = Scheduler(cache, max_sequences=max_sequences, step_tokens=step_tokens)
        self.max_length = min(backend.config.context, backend.block_count * backend.block_size)
        self._max_waiting = max_waiting
        self._special = frozenset(tokenizer.special_tokens.values())
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._completions: dict[str, dict[int, _Completion]] = {}
        self._arrivals = itertools.count()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self._failure: BaseException | None = None
        self._closed = False

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine's thread and free the backend; requests in flight end as cancelled."""
        with self._start:
            if self._closed:
                return
            self._closed = True
        if self._thread is not None:
            self._inbox.put(("close", None))
            self._thread.join()
        self.backend.close()

    def generate(self, requests: Request | Iterable[Request]) -> Iterator[Event]:
        """Events of one request or of many, as they come; leaving the iterator early cancels what is unfinished.

        Raises RequestError, before anything runs, for a request that cannot be served.
        """
        received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        wanted = [requests] if isinstance(requests, Request) else list(requests)
        ids = self._submit(wanted, received.put)
        return self._receive(ids, wanted, received)

    def _receive(self, ids: list[str], wanted: list[Request], received: "queue.SimpleQueue[Any]") -> Iterator[Event]:
        open_completions = sum(request.params.n for request in wanted)
        try:
            while open_completions:
                event = received.get()
                if isinstance(event, BaseException):
                    open_completions = 0
                    raise event
                open_completions -= event.finish_reason is not None
                yield event
        finally:
            if open_completions:
                for request_id in ids:
                    self.cancel(request_id)

    async def agenerate(self, requests: Request | Iterable[Request]) -> AsyncIterator[Event]:
        """`generate` for asyncio."""
        import asyncio

        loop = asyncio.get_running_loop()
        received: asyncio.Queue[Any] = asyncio.Queue()
        wanted = [requests] if isinstance(requests, Request) else list(requests)

        def deliver(event: Any) -> None:
            try:
                loop.call_soon_threadsafe(received.put_nowait, event)
            except RuntimeError:  # the loop has ended; nobody listens
                return

        ids = self._submit(wanted, deliver)
        open_completions = sum(request.params.n for request in wanted)
        try:
            while open_completions:
                event = await received.get()
                if isinstance(event, BaseException):
                    open_completions = 0
                    raise event
                open_completions -= event.finish_reason is not None
                yield event
        finally:
            if open_completions:
                for request_id in ids:
                    self.cancel(request_id)

    def complete(self, request: Request) -> Event:
        """The whole of a single completion (`n` of 1) as one event."""
        events = list(self.generate(request))
        return Event(
            request=events[-1].request,
            index=0,
            text="".join(event.text for event in events),
            tokens=tuple(token for event in events for token in event.tokens),
            logprobs=tuple(item for event in events for item in event.logprobs),
            prompt_logprobs=next((e.prompt_logprobs for e in events if e.prompt_logprobs is not None), None),
            finish_reason=events[-1].finish_reason,
            usage=events[-1].usage,
        )

    @property
    def healthy(self) -> bool:
        """Whether requests are taken: neither closed nor stopped by an error."""
        return self._failure is None and not self._closed

    def cancel(self, request_id: str) -> None:
        """End a request; its blocks are free before the next step."""
        self._inbox.put(("cancel", request_id))

    def _submit(self, requests: list[Request], deliver: Callable[[Any], None]) -> list[str]:
        """Check requests and put them in line. RequestError at the door names what cannot be served."""
        if self._failure is not None:
            raise EngineStoppedError(f"the engine has stopped after an error: {self._failure}") from self._failure
        if self._closed:
            raise EngineStoppedError("the engine is closed")
        groups = [self._sequences(request) for request in requests]
        waiting = len(self.scheduler.waiting) + self._inbox.qsize()  # what the engine has not looked at yet waits too
        if waiting + sum(map(len, groups)) > self._max_waiting:
            raise QueueFullError(f"the queue is full ({self._max_waiting} requests wait); try again later")
        with self._start:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="herd-engine", daemon=True)
                self._thread.start()
        for group in groups:
            self._inbox.put(("add", [_Completion(s, self.tokenizer, deliver) for s in group]))
        return [group[0].request for group in groups]

    def _sequences(self, request: Request) -> list[Sequence]:
        params, vocab = request.params, self.backend.config.vocab
        params.check(vocab)
        length = len(request.prompt)
        if not length:
            raise RequestError("prompt is empty; expected at least one token", param="prompt")
        bad = next((t for t in request.prompt if not 0 <= t < vocab), None)
        if bad is not None:
            raise RequestError(f"prompt has token {bad}; expected tokens from 0 to {vocab - 1}", param="prompt")
        wanted = params.max_tokens if params.max_tokens is not None else 1
        if length + wanted > self.max_length:
            limit = "the model's context" if self.max_length == self.backend.config.context else "the cache"
            raise RequestError(
                f"the prompt's {length:,} tokens and {wanted:,} to generate exceed {limit} of {self.max_length:,} tokens; "
                "shorten the prompt or ask for fewer",
                code="context_length_exceeded",
            )
        if request.deadline is not None and request.deadline <= 0:
            raise RequestError(f"deadline is {request.deadline}; expected seconds above 0", param="timeout")
        seed = int.from_bytes(os.urandom(8), "little") >> 1 if params.seed is None else params.seed
        name = request.id or f"request-{os.urandom(8).hex()}"
        return [
            Sequence(
                name, index, params, list(request.prompt), length,
                self.max_length if params.max_tokens is None else length + params.max_tokens,
                completion_seed(seed, index), (request.priority, next(self._arrivals)),
                None if request.deadline is None else time.monotonic() + request.deadline,
                None if request.constraint is None else request.constraint(),
            )
            for index in range(params.n)
        ]  # fmt: skip

    # What follows runs on the engine's own thread.

    def _run(self) -> None:
        try:
            while self._take_orders():
                for sequence in list(self.scheduler.expired()):
                    self._finish(self._completions[sequence.request][sequence.index], "deadline")
                plan = self.scheduler.plan()
                if not plan.rows:
                    continue
                for sequence, result in self.scheduler.commit(self.backend.step(plan)):
                    self._advance(self._completions[sequence.request][sequence.index], result)
        except BaseException as error:
            self._failure = error
            for group in self._completions.values():
                for completion in group.values():
                    completion.deliver(error)
        else:
            for group in list(self._completions.values()):
                for completion in list(group.values()):
                    self._finish(completion, "cancelled")

    def _take_orders(self) -> bool:
        """Handle what callers asked for, waiting when there is nothing else to do; False to stop."""
        while True:
            idle = not self.scheduler.running and not self.scheduler.waiting
            try:
                kind, value = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if kind == "close":
                return False
            if kind == "cancel":
                for completion in list(self._completions.get(value, {}).values()):
                    self._finish(completion, "cancelled")
            else:
                for completion in value:
                    sequence = completion.sequence
                    self._completions.setdefault(sequence.request, {})[sequence.index] = completion
                    if sequence.max_length == sequence.prompt_length and not sequence.wants_scores:
                        self._finish(completion, "length")  # nothing to generate and nothing to score
                    else:
                        self.scheduler.add(sequence)

    def _advance(self, completion: _Completion, result: RowResult) -> None:
        """Take one sampled token: decode it, look for a stop, send what is certain."""
        sequence, params, token = completion.sequence, completion.sequence.params, result.token
        assert token is not None
        if sequence.constraint is not None:
            sequence.constraint.advance(token)
        if sequence.max_length == sequence.prompt_length:  # only the prompt's scores were wanted
            sequence.tokens.pop()
            self._finish(completion, "length")
            return
        completion.pending.append(token)
        if result.logprob is not None:
            completion.pending_logprobs.append(result.logprob)
        ends = token in params.stop_tokens or (not params.ignore_eos and token in self.tokenizer.stop_ids)
        if ends:
            self._finish(completion, "stop")
            return
        if token in self._special and not params.show_special:
            text = ""
        else:
            text = completion.decoder.push(token)
        text, stopped = completion.stop.push(text)
        if stopped:
            self._send(completion, text)
            self._finish(completion, "stop", flush=False)
        elif len(sequence.tokens) >= sequence.max_length:
            self._send(completion, text)
            self._finish(completion, "length")
        else:
            self._send(completion, text)

    def _send(self, completion: _Completion, text: str, reason: FinishReason | None = None) -> None:
        sequence = completion.sequence
        scores: tuple[TokenLogprob | None, ...] | None = None
        if not completion.echoed:
            completion.echoed = True
            prompt = sequence.tokens[: sequence.prompt_length]
            shown = [t for t in prompt if sequence.params.show_special or t not in self._special]
            text = b"".join(map(self.tokenizer.token_bytes, shown)).decode("utf-8", "replace") + text
            if sequence.wants_scores:
                scores = (None, *sequence.scores)
        if not (text or reason or completion.pending):
            return
        usage = Usage(sequence.prompt_length, sequence.reply_length, sequence.cached) if reason else None
        completion.deliver(
            Event(
                request=sequence.request, index=sequence.index, text=text, tokens=tuple(completion.pending),
                logprobs=tuple(completion.pending_logprobs), prompt_logprobs=scores, finish_reason=reason, usage=usage,
            )
        )  # fmt: skip
        completion.pending, completion.pending_logprobs = [], []

    def _finish(self, completion: _Completion, reason: FinishReason, *, flush: bool = True) -> None:
        sequence = completion.sequence
        text = ""
        if flush:
            text, stopped = completion.stop.push(completion.decoder.finish())
            if not stopped:
                text += completion.stop.finish()
        self._send(completion, text, reason)
        self.scheduler.remove(sequence)
        group = self._completions[sequence.request]
        del group[sequence.index]
        if not group:
            del self._completions[sequence.request]
