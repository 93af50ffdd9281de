"""The CPU decoder in C++ behind one thin binding: load tensors, compute steps. See docs/explanation/native.md.

`csrc/` reads top to bottom: layout.h, simd.h, dots.h, kernels.h, pack.h, pack_fast.h, kernels.cpp, pool.h, sampler, decoder, forward,
binding.
"""

import mmap
from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from herd.errors import ConfigError, FormatError
from herd.family import ModelConfig
from herd.native import _native
from herd.quant.formats import number_format
from herd.rotary import frequencies
from herd.weights.checkpoint import Checkpoint, StoredTensor

BLOCK: int = _native.BLOCK
"""Positions in a block of the key-value cache."""

_FP8 = 1000  # the decoder's own id; ggml has none
_DIRECT = ("F32", "F16", "BF16", "F8_E4M3", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


def instruction_sets() -> list[str]:
    """What this processor and this build can use, best first."""
    return list(_native.instruction_sets())


class Probe(NamedTuple):
    """What some threads can do at the moment: bytes a second from memory, and operations a second, two a multiply-add, of floats
    and of 4-bit weights with 8-bit activations."""

    bandwidth: float
    float_ops: float
    integer_ops: float


def probe(threads: int, isa: str = "") -> Probe:
    """Measure the machine, for about a second; `isa` "" is the best instruction set."""
    floats, integers = _native.probe_flops(threads, isa), _native.probe_integer_ops(threads, isa)
    return Probe(_native.probe_bandwidth(threads), floats, integers)


def converted_formats(checkpoint: Checkpoint) -> set[str]:
    """Number formats of a checkpoint that the decoder has no kernel for and holds as BF16."""
    return {tensor.format for tensor in checkpoint.tensors.values()} - set(_DIRECT)


def load(checkpoint: Checkpoint, *, threads: int, blocks: int, isa: str = "", kv_cache: str = "f16") -> _native.Decoder:
    """A decoder with a checkpoint's weights packed; `blocks` is the size of its cache, `kv_cache` that of a number in it (f32, f16,
    int8 or int4), `isa` "" for the best.

    Raises ConfigError for a shape or an instruction set it cannot run.
    """
    config = checkpoint.config
    if config.classes:
        raise ConfigError(
            f"this checkpoint has a head of {config.classes} classes and writes no text; herd.model scores with it"
        )
    scaling = config.rope_scaling
    try:
        decoder = _native.Decoder(
            layers=config.layers, dim=config.dim, ffn_dim=config.ffn_dim, heads=config.heads, kv_heads=config.kv_heads,
            head_dim=config.head_dim, vocab=config.vocab, norm_eps=config.norm_eps, frequencies=frequencies(config.head_dim, config.rope_theta, scaling),
            rope_gain=1.0 if scaling is None else scaling.gain,
            threads=threads, blocks=blocks, isa=isa, kv_cache=kv_cache,
        )  # fmt: skip
        decoder.held = {}
        for name, tensor in _with_output(checkpoint):
            _add(decoder, name, tensor)
        decoder.finish()
    except MemoryError as error:
        raise ConfigError(
            "not enough memory for the weights and the cache; use a smaller --context or model"
        ) from error
    except (ValueError, IndexError) as error:
        raise ConfigError(f"the native backend cannot run this model: {error}") from error
    return decoder


def update(decoder: _native.Decoder, config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Put tensors in place of a decoder's own, between steps; in their place in memory where the format is the same."""
    for name, tensor in tensors.items():
        _add(decoder, name, tensor)
        if name == "tok_embeddings.weight" and config.tied:
            _add(decoder, "output.weight", tensor)


def _with_output(checkpoint: Checkpoint) -> Iterable[tuple[str, StoredTensor]]:
    yield from checkpoint.tensors.items()
    if checkpoint.config.tied:
        yield "output.weight", checkpoint.tensors["tok_embeddings.weight"]


def _as_bf16(tensor: StoredTensor) -> StoredTensor:
    from herd.quant.dequantize import f32_to_bf16

    return StoredTensor("BF16", tensor.shape, lambda a, b: f32_to_bf16(tensor.float32(a, b)).reshape(b - a, -1))


def _add(decoder: _native.Decoder, name: str, tensor: StoredTensor) -> None:
    rows, columns = tensor.row_count, tensor.shape[-1]
    if tensor.format not in _DIRECT:
        tensor = _as_bf16(tensor)
    gguf_type = number_format(tensor.format).gguf_type
    fmt = _FP8 if gguf_type is None else gguf_type
    raw = tensor.raw()
    if raw.nbytes != tensor.nbytes:
        raise FormatError(f"tensor {name} has {raw.nbytes} bytes; expected {tensor.nbytes}")
    scale = None if tensor.scale is None else array("f", tensor.scale().reshape(-1).tolist())
    mapped = isinstance(raw.obj, mmap.mmap)
    decoder.add(name, fmt, rows, columns, raw, scale, mapped)
    decoder.held.pop(name, None)
    if mapped or name == "tok_embeddings.weight":
        decoder.held[name] = raw  # steps read it: embeddings as tokens come, matrices until they are packed
