"""What Prometheus reads at /metrics."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from herd.engine.engine import Engine, Load
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
        model = ("model",)
        self.prompt_tokens = counter("herd_prompt_tokens", "Tokens of prompts.", model)
        self.cached_tokens = counter(
            "herd_cached_prompt_tokens", "Tokens of prompts that were found in the cache.", model
        )
        self.completion_tokens = counter("herd_completion_tokens", "Tokens generated.", model)
        self.loads = counter("herd_model_loads", "Models loaded, and loads that failed.", ("model", "result"))
        self.safety = counter("herd_safety_fired", "What checks of the Shield saw.", ("check", "action"))
        self.safety_failed = counter("herd_safety_failed", "Checks of the Shield that failed.", ("check", "action"))
        self.log_errors = counter("herd_log_errors", "Lines of the access log that could not be written.")
        self.first_token = self._histogram(
            "herd_time_to_first_token_seconds", "From a request's start to its first token.", model
        )
        self.between_tokens = self._histogram("herd_time_between_tokens_seconds", "Between a reply's tokens.", model)
        self.request_seconds = self._histogram("herd_request_seconds", "From a request's start to its end.")
        self.loaded = self._gauge("herd_model_loaded", "Whether a model is in memory.", model)
        self.now = self._gauge("herd_requests_in_flight", "Replies being made.", model)
        self.waiting = self._gauge("herd_sequences_waiting", "Sequences in the queue.", model)
        self.running = self._gauge("herd_sequences_running", "Sequences being computed.", model)
        self.blocks = self._gauge("herd_cache_blocks", "Blocks of the key-value cache.", ("model", "state"))

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livesum")

    def fired(self, one: Fired) -> None:
        """A check of the Shield fired, or failed."""
        (self.safety_failed if one.failure else self.safety).labels(f"{one.where}.{one.check}", one.action).inc()

    def observe(self, name: str, engine: Engine | None, line: int = 0) -> None:
        """Note how full a model's engine is, None for a model that is not in memory, and how many wait for it to be."""
        load = Load(0, 0, 0, 0, 0) if engine is None else engine.load()
        self.loaded.labels(name).set(engine is not None)
        self.waiting.labels(name).set(load.waiting + line)
        self.running.labels(name).set(load.running)
        self.blocks.labels(name, "free").set(load.free_blocks)
        self.blocks.labels(name, "used").set(load.blocks - load.free_blocks)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        if self._folder is None:
            return generate_latest(self.registry)
        together: Any = CollectorRegistry()
        MultiProcessCollector(together, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class Meter:
    """Counts what one model does."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._prompt, self._cached = metrics.prompt_tokens.labels(model), metrics.cached_tokens.labels(model)
        self._completion, self._now = metrics.completion_tokens.labels(model), metrics.now.labels(model)
        self._first, self._between = metrics.first_token.labels(model), metrics.between_tokens.labels(model)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a reply while it is made."""
        self._now.inc()
        try:
            yield
        finally:
            self._now.dec()

    def tokens(self, count: int, seconds: float, *, first: bool) -> None:
        """`count` tokens came `seconds` after what was before them."""
        self._completion.inc(count)
        (self._first if first else self._between).observe(seconds if first else seconds / count)
        if first:
            RECORD.get({}).setdefault("first_token_seconds", round(seconds, 4))

    def finished(self, usage: Usage) -> None:
        """A reply is complete."""
        self._prompt.inc(usage.prompt)
        self._cached.inc(usage.cached)
        record = RECORD.get({})
        for name, value in (("prompt", usage.prompt), ("cached", usage.cached), ("completion", usage.completion)):
            record[f"{name}_tokens"] = record.get(f"{name}_tokens", 0) + value
