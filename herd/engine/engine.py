"""The engine: takes requests from any thread, runs steps on its own, and hands each caller its events or completions.

Everything that generates text goes through here: chat, server, synthetic data, evaluation, guards.
"""

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from herd.engine.backend import Backend, RowResult, check_tensors
from herd.engine.cache import BlockCache
from herd.engine.constraint import GuardedConstraint
from herd.engine.drafts import Drafter
from herd.engine.output import Caller, Output
from herd.engine.prefixes import PrefixStore
from herd.engine.request import Completion, Event, FinishReason, Request
from herd.engine.scheduler import Scheduler
from herd.engine.sequence import Sequence, admit
from herd.errors import (
    ConfigError,
    EngineStoppedError,
    HerdError,
    NotFiniteError,
    QueueFullError,
    RequestError,
    first_line,
)
from herd.family import ModelConfig
from herd.text.tokenizer import Tokenizer
from herd.weights.checkpoint import StoredTensor

if TYPE_CHECKING:
    from concurrent.futures import Future

_RETRY = 0.02  # seconds until a run that found the queue full of others' requests tries again


class Load(msgspec.Struct, frozen=True):
    """How full an engine is: completions that wait and that run, blocks of the cache and those nobody uses, and how often
    a sequence had to give its blocks back so far.
    """

    waiting: int
    running: int
    blocks: int
    free_blocks: int
    preemptions: int


class Engine:
    """Serves one model on one backend. Use as a context manager, or call `close`.

    `drafter` makes what guesses the next tokens, for the engine's cache; see `herd.engine.drafts`. `store` keeps prompts on disk.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        max_sequences: int = 64,
        step_tokens: int = 512,
        max_waiting: int = 100_000,
        drafter: Callable[[BlockCache], Drafter] | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        if drafter is not None and not backend.verifies_drafts:
            raise ConfigError(f"the {backend.name} backend verifies no guesses; --draft needs the native backend")
        self.backend, self.tokenizer = backend, tokenizer
        cache = BlockCache(backend.block_count, backend.block_size)
        self._store = store
        self._drafter = None if drafter is None else drafter(cache)
        self.scheduler = Scheduler(
            cache, max_sequences=max_sequences, step_tokens=step_tokens,
            drafter=self._drafter, verifies_drafts=backend.verifies_drafts, store=store,
        )  # fmt: skip
        self.max_length = min(backend.config.context, backend.block_count * backend.block_size)
        self._max_waiting = max_waiting
        self._special = frozenset(tokenizer.special_tokens.values())
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._outputs: dict[Sequence, Output] = {}
        self._outbox: dict[Caller, list[Event | Completion | HerdError]] = {}
        self._arrivals = itertools.count()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # of the three below
        self._open = 0  # completions that were taken and have not ended
        self._failure: EngineStoppedError | None = None
        self._closed = False

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine's thread and free the backend; requests in flight end as cancelled."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._thread is not None:
            self._inbox.put(("close", None))
            self._thread.join()
        if self._store is not None:
            self._store.close()
        self.backend.close()
        if self._drafter is not None:
            self._drafter.close()

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.backend.config

    @property
    def healthy(self) -> bool:
        """Whether requests are taken: neither closed nor stopped by an error."""
        return self._failure is None and not self._closed

    def load(self) -> Load:
        """How full the engine is just now."""
        scheduler, cache = self.scheduler, self.scheduler.cache
        running = len(scheduler.running)
        return Load(max(0, self._open - running), running, cache.count, cache.free, scheduler.preemptions)

    def generate(self, requests: Request | Iterable[Request]) -> Iterator[Event]:
        """Events of one request or of many, as they come; leaving the iterator early cancels what is unfinished.

        Raises RequestError, before anything runs, for a request that cannot be served, and later for one that fails.
        """
        received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        caller = Caller(received.put)
        return self._receive(caller, received, self._submit(_listed(requests), caller))

    def _receive(self, caller: Caller, received: "queue.SimpleQueue[Any]", left: int) -> Iterator[Event]:
        try:
            while left:
                for event in received.get():
                    if isinstance(event, BaseException):
                        raise event
                    left -= event.finish_reason is not None
                    yield event
        finally:
            if left:
                self._cancel(caller)

    async def agenerate(self, requests: Request | Iterable[Request]) -> AsyncIterator[Event]:
        """`generate` for asyncio."""
        import asyncio

        loop = asyncio.get_running_loop()
        received: asyncio.Queue[Any] = asyncio.Queue()

        def deliver(events: list[Any]) -> None:
            try:
                loop.call_soon_threadsafe(received.put_nowait, events)
            except RuntimeError:  # the loop has ended; nobody listens
                return

        caller = Caller(deliver)
        left = self._submit(_listed(requests), caller)
        try:
            while left:
                for event in await received.get():
                    if isinstance(event, BaseException):
                        raise event
                    left -= event.finish_reason is not None
                    yield event
        finally:
            if left:
                self._cancel(caller)

    def complete(self, request: Request) -> Completion:
        """The whole of a single completion. RequestError for a request that cannot be served, fails, or has `n` above 1."""
        if request.params.n != 1:
            raise RequestError(
                f"n is {request.params.n}; complete gives one completion, run gives all of them", param="n"
            )
        completion = next(self._run(iter([request]), 1, retry=False))
        if completion.error is not None:
            raise completion.error
        return completion

    def run(self, requests: Iterable[Request], *, ahead: int = 256) -> Iterator[Completion]:
        """Completions of any number of requests, in the order in which they finish; `request` in each says whose it is.

        Requests are taken from their iterable as there is room, so that about `ahead` completions are in the engine at a
        time; a queue full of others' requests is waited for. Every request gives its `n` completions, whatever becomes of
        it: one that is refused or fails gives them with an `error`. Leaving the iterator early cancels what is unfinished.
        EngineStoppedError when the engine ends.
        """
        if ahead < 1:
            raise RequestError(f"ahead is {ahead}; expected 1 or more", param="ahead")
        return self._run(iter(requests), ahead)

    def _run(self, requests: Iterator[Request], ahead: int, *, retry: bool = True) -> Iterator[Completion]:
        received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        caller = Caller(received.put, whole=True)
        finished: deque[Any] = deque()
        left, request = 0, next(requests, None)
        try:
            while left or request is not None:
                while request is not None and left < ahead:
                    try:
                        left += self._submit([request], caller)
                    except QueueFullError:
                        if not retry:
                            raise
                        break
                    except EngineStoppedError:
                        raise
                    except HerdError as error:
                        refused = _refused(request, error)
                        received.put(refused)
                        left += len(refused)
                    request = next(requests, None)
                if not left:
                    time.sleep(_RETRY)
                    continue
                if not finished:
                    finished.extend(received.get())
                completion = finished.popleft()
                if isinstance(completion, BaseException):
                    raise completion
                left -= 1
                yield completion
        finally:
            if left:
                self._cancel(caller)

    def cancel(self, request_id: str) -> None:
        """End the requests with this `id`; their blocks are free before the next step."""
        self._inbox.put(("cancel", lambda output: output.request.id == request_id))

    def _cancel(self, caller: Caller) -> None:
        self._inbox.put(("leave", caller))

    def update(self, tensors: Mapping[str, StoredTensor]) -> None:
        """Put `tensors`, by their names in the checkpoint, in place of the model's own, between two steps.

        Returns when it is done. What was computed with the old weights is forgotten: the prefix cache is empty, and
        completions under way go on with the new weights, their tokens so far kept. No tensors: only forget, for a model
        whose weights were changed in place. RequestError, and no change, for a name or shape that the model does not have,
        ConfigError where the backend cannot; any other error leaves weights half changed and stops the engine.
        """
        check_tensors(self.config, tensors)
        from concurrent.futures import Future  # not at every start

        done: Future[None] = Future()
        self._order("update", (tensors, done))
        done.result()

    def _submit(self, requests: list[Request], caller: Caller) -> int:
        """Check requests and put them in line; returns how many completions. RequestError names what cannot be served."""
        self._check_alive()
        outputs = []
        for request in requests:
            sequences = admit(request, self.config, self.max_length, self._arrivals)
            for sequence in sequences:
                sequence.patient = caller.whole
            outputs += [Output(caller, request, s, sequences[0], self.tokenizer, self._special) for s in sequences]
        if len(outputs) > self._max_waiting:
            raise RequestError(f"{len(outputs):,} completions at once; expected at most {self._max_waiting:,}")
        self._order("add", outputs)
        return len(outputs)

    def _order(self, kind: str, value: Any) -> None:
        """Tell the engine's thread. Completions count from here on as waiting."""
        with self._lock:
            self._check_alive()
            if kind == "add":
                if self._open - len(self.scheduler.running) + len(value) > self._max_waiting:
                    raise QueueFullError(f"the queue is full ({self._max_waiting} requests wait); try again later")
                self._open += len(value)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="herd-engine", daemon=True)
                self._thread.start()
            self._inbox.put((kind, value))

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise EngineStoppedError("the engine is closed")

    # What follows runs on the engine's own thread.

    def _work(self) -> None:
        try:
            while self._take_orders():
                for sequence in self.scheduler.expired():
                    self._finish(self._outputs[sequence], "deadline")
                plan = self.scheduler.plan()
                if not plan.rows:
                    continue
                begun = time.perf_counter()
                results = self.backend.step(plan)
                for sequence, result in self.scheduler.commit(results, time.perf_counter() - begun):
                    self._advance(self._outputs[sequence], result)
                    for token, logprob in result.accepted:
                        if sequence.finished:
                            break
                        self.scheduler.extend(sequence, token)
                        self._advance(self._outputs[sequence], RowResult(token, logprob))
        except BaseException as error:
            failure = EngineStoppedError(f"the engine has stopped after an error: {first_line(error)}")
            failure.__cause__ = error
            with self._lock:  # nothing is put in the inbox from here on
                self._failure = failure
            self._end(failure)
        else:
            self._end(None)

    def _end(self, error: EngineStoppedError | None) -> None:
        """Tell everybody whose completions are open that there is no more."""
        while not self._inbox.empty():
            kind, value = self._inbox.get()
            if kind == "add":
                self._outputs.update((output.sequence, output) for output in value)
            elif kind == "update":
                value[1].set_exception(EngineStoppedError("the engine has ended"))
        if error is None:
            for output in self._outputs.values():
                self._send(output, output.finish("cancelled"))
        else:
            for output in self._outputs.values():
                self._send(output, error)
        self._outputs.clear()
        self._deliver()

    def _take_orders(self) -> bool:
        """Handle what callers asked for, waiting when there is nothing else to do; False to stop."""
        while True:
            self._deliver()
            try:
                kind, value = self._inbox.get(block=not self._outputs)
            except queue.Empty:
                return True
            match kind:
                case "close":
                    return False
                case "add":
                    for output in value:
                        self._add(output)
                case "leave":
                    for output in list(value.open):
                        self._finish(output, "cancelled")
                case "cancel":
                    for output in [output for output in self._outputs.values() if value(output)]:
                        self._finish(output, "cancelled")
                case "update":
                    self._update(*value)

    def _add(self, output: Output) -> None:
        sequence = output.sequence
        self._outputs[sequence] = output
        output.caller.open.add(output)
        self.scheduler.add(sequence)
        if not (sequence.generates or sequence.score_tokens or sequence.pooling or sequence.unscored is not None):
            self._finish(output, "length")  # nothing is to be computed

    def _update(self, tensors: Mapping[str, StoredTensor], done: "Future[None]") -> None:
        try:
            self.backend.update(tensors)
        except ConfigError as error:  # nothing was changed
            done.set_exception(error)
            return
        except BaseException as error:
            done.set_exception(error)
            raise
        self.scheduler.store = None  # its files are of the old weights
        self.scheduler.restart()
        done.set_result(None)

    def _advance(self, output: Output, result: RowResult) -> None:
        """Take what a step found for a completion. What goes wrong with it ends it, and nothing else."""
        constraint = output.sequence.constraint
        error: HerdError | None = None
        reason: FinishReason | None = "error"
        if not result.finite:
            error = NotFiniteError(
                f"the model computed a NaN or an infinity after {len(output.sequence.tokens):,} tokens; its weights are "
                "damaged or overflow in this number format"
            )
        else:
            if isinstance(constraint, GuardedConstraint):
                if result.token is not None and constraint.error is None:
                    constraint.advance(result.token)
                error = constraint.error
            if error is None:
                reason = output.take(result)
        if reason is not None:
            self._finish(output, reason, error)
        elif (event := output.news()) is not None:
            self._send(output, event)

    def _finish(self, output: Output, reason: FinishReason, error: HerdError | None = None) -> None:
        self.scheduler.remove(output.sequence, forget=error is not None)
        del self._outputs[output.sequence]
        output.caller.open.discard(output)
        with self._lock:
            self._open -= 1
        self._send(output, output.finish(reason, error))

    def _send(self, output: Output, news: Event | Completion | HerdError) -> None:
        self._outbox.setdefault(output.caller, []).append(news)

    def _deliver(self) -> None:
        """Give everybody what came for them since the last time."""
        outbox, self._outbox = self._outbox, {}
        for caller, news in outbox.items():
            caller.deliver(news)


def _listed(requests: Request | Iterable[Request]) -> list[Request]:
    return [requests] if isinstance(requests, Request) else list(requests)


def _refused(request: Request, error: HerdError) -> list[Completion]:
    """The completions of a request that was refused: as many as it wanted, or one where that is what is wrong."""
    count = request.params.n if isinstance(request.params.n, int) and 1 <= request.params.n <= 1024 else 1
    return [Completion(request=request, index=i, finish_reason="error", error=error) for i in range(count)]
