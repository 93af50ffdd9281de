"""Bytes of tensors while a step runs: how many there are at once, and at the fullest moment what they hold."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Key = int
_FINE = 1.01
"""How much fuller it must have become for another look at what is held."""


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages from the operation that made them until they are gone, those of fake tensors too. `known` says of storages (by `key`) what
    they hold, asked at the fullest moments; of others `guess` does, from shape, type and whether it was made in a backward pass.

    `peak` is the most bytes at once, `parts` what they held.
    """

    def __init__(
        self,
        known: Callable[[], dict[Key, str]],
        guess: Callable[[tuple[int, ...], torch.dtype, bool], str],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known, self._guess = known, guess
        self._live: dict[Key, tuple[int, str, Any]] = {}
        self._seen_at, self._paused = 0.0, False
        self.now = self.peak = 0
        self.parts: Counter[str] = Counter()

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._count(tensor.to_local() if isinstance(tensor, DTensor) else tensor)

    def reset(self) -> None:
        """Look for the fullest moment from here on."""
        self.peak, self._seen_at, self.parts = 0, 0.0, Counter()

    def __enter__(self) -> "Memory":
        self._resize = torch.UntypedStorage.resize_
        memory, resize = self, self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            done = resize(storage, size)
            memory._change(storage, size)
            return done

        self._propagate = ShardingPropagator._propagate_tensor_meta_non_cached
        propagate = self._propagate

        def propagated(*args: Any) -> Any:
            memory._paused = True
            try:
                return propagate(*args)
            finally:
                memory._paused = False

        # DTensor asks for shapes of whole tensors, which no process has
        ShardingPropagator._propagate_tensor_meta_non_cached = propagated  # type: ignore[method-assign, assignment]
        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]  # FSDP frees gathered weights like this
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        ShardingPropagator._propagate_tensor_meta_non_cached = self._propagate  # type: ignore[method-assign]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # its local tensors come here one by one
        out = func(*args, **(kwargs or {}))
        if self._paused:
            return out
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self._count(one)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        at = key(tensor)
        if at in self._live:
            return
        backward = torch._C._current_graph_task_id() != -1
        kind = self._guess(tuple(tensor.shape), tensor.dtype, backward)
        size = storage.nbytes()
        self._live[at] = (size, kind, weakref.ref(storage, lambda _: self._drop(at)))
        self._grow(size)

    def _drop(self, at: Key) -> None:
        self.now -= self._live.pop(at)[0]

    def _change(self, storage: torch.UntypedStorage, size: int) -> None:
        at = storage._cdata
        if at in self._live:
            before, kind, ref = self._live[at]
            self._live[at] = (size, kind, ref)
            self._grow(size - before)

    def _grow(self, size: int) -> None:
        self.now += size
        if self.now <= self.peak:
            return
        self.peak = self.now
        if self.now > _FINE * self._seen_at:
            self._seen_at = self.now
            known = self._known()
            self.parts = Counter()
            for at, (held, kind, _) in self._live.items():
                self.parts[known.get(at, kind)] += held


def key(tensor: Tensor) -> Key:
    """What a tensor's storage is known by while it lives."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    found: int = local.untyped_storage()._cdata
    return found
