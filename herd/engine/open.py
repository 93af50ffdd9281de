"""A checkpoint -> an engine on the backend that suits the machine."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from herd.engine.backend import Backend
from herd.engine.cache import BlockCache
from herd.engine.drafts import Drafter, LookupDrafter, ModelDrafter, check_same_tokens
from herd.engine.engine import Engine
from herd.engine.prefixes import PrefixStore, identity
from herd.errors import ConfigError, MissingDependencyError
from herd.weights.checkpoint import Checkpoint
from herd.weights.memory import need

BACKENDS = ("auto", "native", "torch")
_CACHE_SIZE = 4 << 30
LOOKUP = "lookup"
"""The draft that needs no model."""
DEFAULT_CACHE = 8192
"""Tokens of key-value cache, at most, where nobody says how many."""


def open_backend(
    checkpoint: Checkpoint,
    backend: str = "auto",
    *,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    cache_tokens: int | None = None,
    kv_cache: str | None = None,
    isa: str | None = None,
) -> Backend:
    """A backend with the model loaded; `cache_tokens` is the size of the key-value cache (default: the context, at
    most 8,192), `kv_cache` its number format: f32, f16 (default), int8 or int4, the native backend's choice, `isa` the instruction
    set it uses (default: the best). MissingDependencyError says what to install.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if threads is not None and not 1 <= threads <= 1024:
        raise ConfigError(f"threads is {threads}; expected 1 to 1024")
    if cache_tokens is None:
        cache_tokens = min(checkpoint.config.context, DEFAULT_CACHE)
    if cache_tokens < 1:
        raise ConfigError(f"cache of {cache_tokens} tokens; expected 1 or more")
    if backend == "auto":
        backend = "native" if device in (None, "cpu") and dtype is None else "torch"
    if backend == "native":
        from herd.engine.backends.native import NativeBackend

        if device not in (None, "cpu") or dtype is not None:
            raise ConfigError(
                "the native backend runs on the CPU in the weights' own formats; --device and --dtype are torch's"
            )
        return NativeBackend(
            checkpoint, threads=threads, cache_tokens=cache_tokens, kv_cache=kv_cache or "f16", isa=isa or ""
        )
    if kv_cache is not None or isa is not None:
        raise ConfigError("--kv-cache and --isa are the native backend's; torch keeps its cache in the model's --dtype")
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("the torch backend needs torch; install it with: pip install 'llama-herd[torch]'")
    from herd.engine.backends.torch import TorchBackend

    return TorchBackend.load(checkpoint, device=device, dtype=dtype, threads=threads, cache_tokens=cache_tokens)


def open_engine(
    checkpoint: Checkpoint,
    backend: str = "auto",
    *,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    cache_tokens: int | None = None,
    kv_cache: str | None = None,
    max_sequences: int = 64,
    max_waiting: int = 100_000,
    draft: str | Checkpoint | None = None,
    cache: Path | None = None,
    cache_size: int | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> Engine:
    """An engine for a checkpoint; see `open_backend`.

    `draft` guesses several tokens a step and changes no result: "lookup", what followed the last tokens earlier in prompt
    and reply, or a small model with the same tokenizer. `cache` is a folder that keeps what was computed of prompts over
    restarts, in at most `cache_size` bytes (default: 4 GiB); `warn` takes a line about a damaged file.
    """
    if cache is None and cache_size is not None:
        raise ConfigError("--cache-size needs --cache, the folder whose size it bounds")
    if isinstance(draft, Checkpoint):
        check_same_tokens(draft.tokenizer, checkpoint.tokenizer, (draft.config.vocab, checkpoint.config.vocab))
    elif draft is not None and draft != LOOKUP:
        raise ConfigError(f"draft {draft!r}: expected {LOOKUP} or a model")
    opened = open_backend(
        checkpoint, backend, device=device, dtype=dtype, threads=threads, cache_tokens=cache_tokens, kv_cache=kv_cache
    )
    store = None
    if cache is not None:
        store = _store(opened, checkpoint, cache, _CACHE_SIZE if cache_size is None else cache_size, warn)
    return Engine(
        opened, checkpoint.tokenizer, max_sequences=max_sequences, max_waiting=max_waiting,
        drafter=None if draft is None else _drafter(draft, checkpoint, threads), store=store,
    )  # fmt: skip


def _store(
    opened: Backend, checkpoint: Checkpoint, folder: Path, limit: int, warn: Callable[[str], None]
) -> PrefixStore:
    from herd.engine.backends.native import NativeBackend

    if not isinstance(opened, NativeBackend):
        raise ConfigError(f"--cache keeps the native backend's cache; the {opened.name} backend has another")
    return PrefixStore(folder, limit, identity(checkpoint, opened.kv_cache, opened.isa), opened, warn)


def _drafter(draft: str | Checkpoint, target: Checkpoint, threads: int | None) -> Callable[[BlockCache], Drafter]:
    def make(cache: BlockCache) -> Drafter:
        if not isinstance(draft, Checkpoint):
            return LookupDrafter()
        backend = open_backend(draft, "native", threads=threads, cache_tokens=cache.count * cache.size)
        return ModelDrafter(backend, cache, need(draft).weights / need(target).weights)

    return make
