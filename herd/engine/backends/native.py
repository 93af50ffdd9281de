"""The native backend: the C++ decoder on the CPU. A step is one call, sampling included."""

import os
from array import array

from herd import native
from herd.engine.backend import Row, RowResult, StepPlan
from herd.engine.request import TokenLogprob
from herd.errors import ConfigError
from herd.weights.checkpoint import Checkpoint

CACHES = {"f16": 2.0, "int8": 1.0}
"""Number formats of the key-value cache, and bytes of an element (int8 has 4 more bytes a vector, its scale)."""


class NativeBackend:
    """One model on the CPU; `threads` defaults to one a core that this process may use."""

    name = "native"

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
        size = checkpoint.config.kv_bytes_per_token(CACHES[kv_cache]) * self.block_count * native.BLOCK
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > total:
            raise ConfigError(
                f"a cache of {cache_tokens:,} tokens takes {size / 2**30:.1f} GiB; this machine has {total / 2**30:.1f} GiB; "
                "use a smaller --context"
            )
        self._decoder = native.load(checkpoint, threads=threads, blocks=self.block_count, isa=isa, kv_cache=kv_cache)
        checkpoint.forget()
        self.threads = threads
        self.isa: str = self._decoder.isa

    def step(self, plan: StepPlan) -> list[RowResult]:
        """Compute a plan."""
        found = self._decoder.step([_row(row) for row in plan.rows])
        results = []
        for row, (token, chosen, scores) in zip(plan.rows, found, strict=True):
            result = RowResult()
            if row.sampling is not None:
                result.token = token
                if chosen is not None:
                    result.logprob = TokenLogprob(token, *chosen)
            if row.targets is not None:
                result.scores = [TokenLogprob(t, *score) for t, score in zip(row.targets, scores, strict=True)]
            results.append(result)
        return results

    def close(self) -> None:
        """Free weights, cache and threads."""
        self.__dict__.pop("_decoder", None)


def _row(row: Row) -> tuple[object, ...]:
    """A row as the binding takes it."""
    sampling = None
    if row.sampling is not None:
        s, p = row.sampling, row.sampling.params
        history = array("i", s.history) if len(s.history) else None
        biased = array("i", p.logit_bias.keys()) if p.logit_bias else None
        values = array("f", p.logit_bias.values()) if p.logit_bias else None
        top = -1 if p.logprobs is None else p.logprobs
        sampling = (
            p.temperature, p.top_p, p.min_p, p.top_k, p.repetition_penalty, p.presence_penalty, p.frequency_penalty,
            s.seed & (2**64 - 1), s.position, top, history, s.prompt_length, biased, values, s.mask,
        )  # fmt: skip
    targets = None if row.targets is None else array("i", row.targets)
    return array("i", row.tokens), row.start, array("i", row.blocks), sampling, targets, row.target_top
