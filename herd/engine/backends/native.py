"""The native backend: the C++ decoder on the CPU. A step is one call, sampling included."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from herd import native
from herd.engine.backend import Row, RowResult, StepPlan
from herd.engine.request import TokenLogprob
from herd.errors import ConfigError
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.memory import CACHES, advice, need

if TYPE_CHECKING:
    from herd.native._native import Choice, StepResult


class NativeBackend:
    """One model on the CPU; `threads` defaults to one a core that this process may use."""

    name = "native"
    verifies_drafts = True

    def __init__(
        self, checkpoint: Checkpoint, *, cache_tokens: int = 8192, threads: int | None = None, isa: str = "",
        kv_cache: str = "f16",
    ) -> None:  # fmt: skip
        threads = threads or len(os.sched_getaffinity(0))
        if threads > 4 * (os.cpu_count() or 1):
            raise ConfigError(f"threads is {threads}; this machine has {os.cpu_count()} cores")
        if kv_cache not in CACHES:
            raise ConfigError(f"kv cache {kv_cache!r}: expected one of {', '.join(CACHES)}")
        self.config = checkpoint.config
        self.block_size = native.BLOCK
        self.block_count = max(1, -(-cache_tokens // native.BLOCK))
        found = need(checkpoint, kv_cache)
        if (total := found.total(self.block_count * native.BLOCK)) > found.free:
            cache = found.per_token * cache_tokens
            raise ConfigError(
                f"{checkpoint.path} needs {total / 2**30:.1f} GiB ({found.weights / 2**30:.1f} of weights, {cache / 2**30:.1f} of "
                f"cache for {cache_tokens:,} tokens); this machine has {found.free / 2**30:.1f} GiB free; {advice(checkpoint, found)}"
            )
        self._decoder = native.load(checkpoint, threads=threads, blocks=self.block_count, isa=isa, kv_cache=kv_cache)
        checkpoint.forget()
        self.threads, self.kv_cache = threads, kv_cache
        self.isa: str = self._decoder.isa

    def step(self, plan: StepPlan) -> list[RowResult]:
        """Compute a plan."""
        return [_result(row, found) for row, found in zip(plan.rows, self._decoder.step(plan.rows), strict=True)]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of the cache."""
        return self._decoder.block_bytes

    def read_block(self, block: int) -> bytes:
        """Keys and values of a block, all layers one after another."""
        return self._decoder.read_block(block)

    def write_block(self, block: int, contents: memoryview) -> None:
        """Put keys and values into a block."""
        self._decoder.write_block(block, contents)

    def update(self, tensors: Mapping[str, StoredTensor]) -> None:
        """Pack tensors over the decoder's own."""
        native.update(self._decoder, self.config, tensors)

    def settle(self) -> None:
        """Pack the weights that steps have not packed yet."""
        self._decoder.pack()

    def close(self) -> None:
        """Free weights, cache and threads."""
        self.__dict__.pop("_decoder", None)


def _logprob(choice: "Choice") -> TokenLogprob | None:
    return None if choice.score is None else TokenLogprob(choice.token, choice.score.logprob, choice.score.top)


def _result(row: Row, found: "StepResult") -> RowResult:
    result = RowResult(finite=found.finite)
    if found.choices:
        chosen = [(choice.token, _logprob(choice)) for choice in found.choices]
        (result.token, result.logprob), result.accepted = chosen[0], chosen[1:]
    if row.targets is not None:
        scored = zip(row.targets, found.scores, strict=True)
        result.scores = [TokenLogprob(target, score.logprob, score.top) for target, score in scored]
    result.token_logprobs = tuple(found.token_logprobs)
    if row.state_from is not None:
        result.state = found.state
    return result
