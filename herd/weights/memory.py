"""What a checkpoint needs of this machine's memory when the native backend runs it, and what would fit instead."""

import os
from dataclasses import dataclass
from pathlib import Path

from herd.family import ModelConfig
from herd.quant.formats import weight_bytes
from herd.weights.checkpoint import Checkpoint, StoredTensor

CACHES = {"f32": 4.0, "f16": 2.0, "int8": 1.0, "int4": 0.5}
"""Number formats of the key-value cache, and bytes of an element; the integers have 4 more bytes a vector, its scale."""

_PACKED_BITS = {
    "Q4_K": 5.0,
    "Q5_K": 6.0,
    "Q6_K": 7.0,
    "F8_E4M3": 16.0,
}  # others keep their size; unknown ones become BF16
_WORK = 100 << 20  # activations, buffers, the program itself
_SMALLER = ("Q8_0", "Q5_0", "Q4_0")


@dataclass(frozen=True)
class Need:
    """Bytes of weights as they are packed, of a token's keys and values, and of memory that is free now."""

    weights: int
    per_token: int
    free: int

    def total(self, tokens: int) -> int:
        """Bytes with a cache of `tokens`."""
        return self.weights + self.per_token * tokens + _WORK

    @property
    def context_that_fits(self) -> int:
        """Tokens of cache that fit beside the weights; 0 where these do not fit."""
        return max(0, (self.free - self.weights - _WORK) // self.per_token)


def need(checkpoint: Checkpoint, kv_cache: str = "f16") -> Need:
    """What running `checkpoint` needs; nothing of it is read."""
    config = checkpoint.config
    unpacked = () if config.tied else ("tok_embeddings.weight",)  # looked up in the file
    weights = sum(_packed(tensor) for name, tensor in checkpoint.tensors.items() if name not in unpacked)
    return Need(weights, cache_bytes_per_token(config, kv_cache), free_memory())


def cache_bytes_per_token(config: ModelConfig, kv_cache: str) -> int:
    """Bytes of a token's keys and values in a cache of this format: 2 * layers * kv_heads * (head_dim * bytes + scale)."""
    scales = 2 * config.layers * config.kv_heads * 4 if kv_cache.startswith("int") else 0
    return config.kv_bytes_per_token(CACHES[kv_cache]) + scales


def advice(checkpoint: Checkpoint, found: Need) -> str:
    """What would fit: a shorter context, a smaller format, or nothing."""
    if found.context_that_fits >= 512:
        return f"--context {found.context_that_fits // 512 * 512} would fit"
    for fmt in _SMALLER:
        size = weight_bytes(checkpoint.config, fmt)
        if size < found.weights and size + found.per_token * 2048 + _WORK <= found.free:
            return f"in {fmt} ({size / 2**30:.1f} GiB) it would fit: herd quantize --format {fmt}"
    return "no format of it would fit; use a smaller model"


def free_memory() -> int:
    """Bytes that programs can have now: what the system says is available, within the limit of this process's group."""
    try:
        found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(found[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int((group / limit).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):  # no such group, or no limit
            continue
    return max(free, 0)


def used_memory() -> int:
    """Bytes that this process has for itself, without what it reads from files; 0 where the system does not say."""
    try:
        resident, shared = (int(pages) for pages in Path("/proc/self/statm").read_text().split()[1:3])
    except (OSError, ValueError):
        return 0
    return max(0, resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _packed(tensor: StoredTensor) -> int:
    weights = tensor.row_count * tensor.shape[-1]
    bits = _PACKED_BITS.get(tensor.format)
    return tensor.nbytes if bits is None else int(weights * bits / 8)
