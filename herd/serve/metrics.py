"""What Prometheus reads at /metrics."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from herd.engine.engine import Engine
from herd.engine.request import Usage
from herd.safety.look import Fired

RECORD: ContextVar[dict[str, Any]] = ContextVar("RECORD")
"""The line that the access log will have of the request that is being served."""

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics:
    """Counters of one process. With `folder`, where replicas leave theirs, /metrics shows the sum of all."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self.registry = CollectorRegistry()
        counter = self._counter
        self.requests = counter("herd_requests", "Requests answered.", ("path", "status"))
        self.prompt_tokens = counter("herd_prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = counter("herd_cached_prompt_tokens", "Tokens of prompts that were found in the cache.")
        self.completion_tokens = counter("herd_completion_tokens", "Tokens generated.")
        self.safety = counter("herd_safety_fired", "What checks of the Shield saw.", ("check", "action"))
        self.safety_failed = counter("herd_safety_failed", "Checks of the Shield that failed.", ("check", "action"))
        self.log_errors = counter("herd_log_errors", "Lines of the access log that could not be written.")
        self.first_token = self._histogram(
            "herd_time_to_first_token_seconds", "From a request's start to its first token."
        )
        self.between_tokens = self._histogram("herd_time_between_tokens_seconds", "Between a reply's tokens.")
        self.request_seconds = self._histogram("herd_request_seconds", "From a request's start to its end.")
        self.now = self._gauge("herd_requests_in_flight", "Replies being made.")
        self.waiting = self._gauge("herd_sequences_waiting", "Sequences in the queue.")
        self.running = self._gauge("herd_sequences_running", "Sequences being computed.")
        self.blocks = self._gauge("herd_cache_blocks", "Blocks of the key-value cache.", ("state",))

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=_SECONDS, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livesum")

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a reply while it is made."""
        self.now.inc()
        try:
            yield
        finally:
            self.now.dec()

    def tokens(self, count: int, seconds: float, *, first: bool) -> None:
        """`count` tokens came `seconds` after what was before them."""
        self.completion_tokens.inc(count)
        (self.first_token if first else self.between_tokens).observe(seconds if first else seconds / count)
        if first:
            RECORD.get({}).setdefault("first_token_seconds", round(seconds, 4))

    def finished(self, usage: Usage) -> None:
        """A reply is complete."""
        self.prompt_tokens.inc(usage.prompt)
        self.cached_tokens.inc(usage.cached)
        record = RECORD.get({})
        for name, value in (("prompt", usage.prompt), ("cached", usage.cached), ("completion", usage.completion)):
            record[f"{name}_tokens"] = record.get(f"{name}_tokens", 0) + value

    def fired(self, one: Fired) -> None:
        """A check of the Shield fired, or failed."""
        (self.safety_failed if one.failure else self.safety).labels(f"{one.where}.{one.check}", one.action).inc()

    def observe(self, engine: Engine) -> None:
        """Note how full the engine is."""
        load = engine.load()
        self.waiting.set(load.waiting)
        self.running.set(load.running)
        self.blocks.labels("free").set(load.free_blocks)
        self.blocks.labels("used").set(load.blocks - load.free_blocks)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        if self._folder is None:
            return generate_latest(self.registry)
        together: Any = CollectorRegistry()
        MultiProcessCollector(together, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)
