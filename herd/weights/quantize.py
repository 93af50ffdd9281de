"""A checkpoint -> a smaller one: which tensors get which format, and writing it. Calibration and reports are `engine`'s."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from herd.errors import ConfigError
from herd.progress import Progress, silent
from herd.quant.finite import broken_row
from herd.quant.floats import FLOATS, encode
from herd.quant.quantize import FP8_SCALE_BOUND, WRITTEN, quantize, quantize_calibrated, quantize_fp8
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.convert import convert
from herd.weights.finite import check_finite, too_large

ALIASES = {"int8": "Q8_0", "int4": "Q4_0", "fp8": "F8_E4M3"}
# llama.cpp's mixtures: a format, and the one that values and half of the layers' down projections have instead.
MIXTURES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
# What a row gets that blocks of 256 do not divide.
_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def quantized(
    source: Checkpoint,
    fmt: str,
    moments: Mapping[str, NDArray[np.float32]] | None = None,
    embedding: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """`source` with its matrices in `fmt`; tensors are quantized as they are read.

    FP8 is Meta's recipe: the feed-forward matrices of all layers but the first and the last. Other formats take all
    matrices of the layers; embedding and output head are in format `embedding`, by default Q8_0, or Q6_K with a
    k-format, as llama.cpp keeps them. Rows that no block divides are F16, of which `say` is told.
    """
    fmt = ALIASES.get(fmt, fmt)
    mixture = MIXTURES.get(fmt)
    fmt = mixture[0] if mixture else fmt
    embedding = embedding or ("Q6_K" if fmt.endswith("_K") else "Q8_0")
    if embedding not in WRITTEN:
        raise ConfigError(f"--embedding {embedding}: expected one of {', '.join(WRITTEN)}")
    if fmt != "F8_E4M3" and fmt not in WRITTEN:
        raise ConfigError(f"--format {fmt}: expected one of {', '.join((*WRITTEN, *MIXTURES, 'F8_E4M3', *ALIASES))}")
    config = source.config
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in source.tensors.items():
        inside = name.startswith("layers.") and len(tensor.shape) == 2
        if fmt == "F8_E4M3":
            middle = not name.startswith(("layers.0.", f"layers.{config.layers - 1}."))
            tensors[name] = _fp8(name, tensor) if inside and middle and ".feed_forward." in name else tensor
        elif inside or name in ("tok_embeddings.weight", "output.weight"):
            target = fmt if inside else embedding
            if inside and mixture and _matters(name, config.layers):
                target = mixture[1]
            if tensor.shape[1] % 256:
                target = _NARROW.get(target, target)
            if tensor.shape[1] % 32:
                say(f"{name}: rows of {tensor.shape[1]} weights are no multiple of 32, kept in F16")
                target = "F16"
            tensors[name] = _blocks(name, tensor, target, None if moments is None else moments.get(name))
        else:
            tensors[name] = tensor
    return replace(source, tensors=tensors)


def _matters(name: str, layers: int) -> bool:
    """Whether llama.cpp's mixtures give a matrix more bits: of values and down projections the first and last eighth of
    the layers, and every third between (its use_more_bits).
    """
    layer = int(name.split(".")[1])
    chosen = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return chosen and name.endswith(("attention.wv.weight", "feed_forward.w2.weight"))


def _blocks(name: str, tensor: StoredTensor, fmt: str, moments: NDArray[np.float32] | None) -> StoredTensor:
    def rows(first: int, last: int) -> NDArray[np.uint8]:
        values = tensor.float32(first, last)
        check_finite(name, values, first)
        if fmt in FLOATS:
            raw = encode(values, fmt)
        else:
            raw = quantize(values, fmt) if moments is None else quantize_calibrated(values, fmt, moments)
        if (row := broken_row(raw, fmt)) is not None:
            raise too_large(name, first + row, values[row], fmt)
        return raw

    return tensor if tensor.format == fmt else StoredTensor(fmt, tensor.shape, rows)


def _fp8(name: str, tensor: StoredTensor) -> StoredTensor:
    def values(first: int, last: int) -> NDArray[np.float32]:
        found = tensor.float32(first, last)
        check_finite(name, found, first)
        if (largest := np.abs(found).max(axis=1)).max() > FP8_SCALE_BOUND:
            row = int(largest.argmax())
            raise too_large(name, first + row, found[row], "F8_E4M3")
        return found

    def rows(first: int, last: int) -> NDArray[np.uint8]:
        return quantize_fp8(values(first, last))[0]

    def scale() -> NDArray[np.float32]:
        step = max(1, (8 << 20) // (4 * tensor.shape[1]))
        parts = range(0, tensor.row_count, step)
        return np.concatenate([quantize_fp8(values(a, min(a + step, tensor.row_count)))[1] for a in parts])

    return StoredTensor("F8_E4M3", tensor.shape, rows, scale)


def quantized_kind(out: Path, fmt: str) -> str:
    """The layout that holds weights in `fmt`: hf for FP8, else gguf; ConfigError when `out` names the other."""
    fp8 = ALIASES.get(fmt, fmt) == "F8_E4M3"
    if fp8 == (out.suffix == ".gguf"):
        raise ConfigError(f"{out}: F8_E4M3 is written as a Hugging Face folder, the other formats as a .gguf file")
    return "hf" if fp8 else "gguf"


def write_quantized(
    source: Checkpoint,
    out: Path,
    fmt: str,
    embedding: str | None = None,
    *,
    progress: Progress = silent,
    split: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Quantize to a .gguf file (or several, see `convert`), or for FP8 to a Hugging Face folder; returns what was written."""
    kind = quantized_kind(out, fmt)
    return convert(quantized(source, fmt, None, embedding, say), out, kind, progress=progress, split=split, say=say)
