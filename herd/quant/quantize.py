"""float32 -> blocks of a quantized format, in numpy: plainly, as ggml rounds, or with what calibration says matters.

Plain rounding of blocks of 32 equals ggml's `quantize_row_*_ref` bit for bit; blocks of 256 are in k_quants.py. With second moments of the inputs, a block's scale is
searched for and the error of each column is made up for in the columns after it (GPTQ, arXiv 2210.17323).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from herd.errors import ConfigError
from herd.quant.formats import FORMATS
from herd.quant.k_quants import quantize_k

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CALIBRATED = ("Q4_0", "Q4_1", "Q8_0")
"""Formats that `quantize_calibrated` writes."""
_E4M3_MAX = 448.0
FP8_SCALE_BOUND = 1200.0
"""Upper bound of the values that a row's scale is made from (Meta's 405B, arXiv 2407.21783 section 6.2)."""


def quantize(values: Floats, name: str) -> Bytes:
    """Raw bytes [rows, bytes a row] of values [rows, columns] in format `name`, rounded as ggml does.

    ConfigError for a format that herd does not write.
    """
    if name not in _PLAIN:
        raise ConfigError(f"--format {name}: herd quantizes to {', '.join(_PLAIN)} and F8_E4M3")
    rows = values.shape[0]
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, FORMATS[name].block)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # callers look at the scales
        return _PLAIN[name](blocks).reshape(rows, -1)


def _halves(values: Floats) -> Bytes:
    return values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def _inverse(d: Floats) -> Floats:
    return np.where(d == 0, np.float32(0), np.float32(1) / d).astype(np.float32)


def _nibbles(q: Bytes) -> Bytes:
    return q[:, :16] | (q[:, 16:] << np.uint8(4))


def _fifths(q: Bytes) -> Bytes:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def _signed_extreme(blocks: Floats) -> Floats:
    return np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)


def _q8_0(blocks: Floats) -> Bytes:
    d = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(d)
    # C's roundf: halves away from zero
    q = (np.trunc(scaled) + np.trunc(2 * (scaled - np.trunc(scaled)))).astype(np.int8)
    return np.concatenate([_halves(d), q.view(np.uint8)], axis=1)


def _symmetric(blocks: Floats, half: int) -> tuple[Floats, Bytes]:
    d = _signed_extreme(blocks) / np.float32(-half)
    shifted = np.trunc(blocks * _inverse(d) + np.float32(half + 0.5))
    return d, shifted.clip(0, 2 * half - 1).astype(np.uint8)


def _affine(blocks: Floats, top: int) -> tuple[Floats, Floats, Bytes]:
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    d = (high - low) / np.float32(top)
    q = np.trunc((blocks - low) * _inverse(d) + np.float32(0.5)).clip(0, top).astype(np.uint8)
    return d, low, q


def _q4_0(blocks: Floats) -> Bytes:
    d, q = _symmetric(blocks, 8)
    return np.concatenate([_halves(d), _nibbles(q)], axis=1)


def _q4_1(blocks: Floats) -> Bytes:
    d, low, q = _affine(blocks, 15)
    return np.concatenate([_halves(d), _halves(low), _nibbles(q)], axis=1)


def _q5_0(blocks: Floats) -> Bytes:
    d, q = _symmetric(blocks, 16)
    return np.concatenate([_halves(d), _fifths(q), _nibbles(q & np.uint8(15))], axis=1)


def _q5_1(blocks: Floats) -> Bytes:
    d, low, q = _affine(blocks, 31)
    return np.concatenate([_halves(d), _halves(low), _fifths(q), _nibbles(q & np.uint8(15))], axis=1)


_PLAIN: dict[str, Callable[[Floats], Bytes]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1,
    **{name: partial(quantize_k, name=name) for name in ("Q4_K", "Q5_K", "Q6_K")},
}  # fmt: skip
WRITTEN = tuple(_PLAIN)


def quantize_fp8(values: Floats) -> tuple[Bytes, Floats]:
    """E4M3 bytes [rows, columns] and scales [rows, 1], as FBGEMM's row-wise recipe makes them: the row's largest
    magnitude, bounded, becomes 448; values round to nearest, ties to even, and saturate.
    """
    scale = (np.minimum(np.abs(values).max(1, keepdims=True), FP8_SCALE_BOUND) / _E4M3_MAX).astype(np.float32)
    scale = np.maximum(scale, np.float32(1e-12))
    return to_e4m3(values / scale), scale


def to_e4m3(values: Floats) -> Bytes:
    """Nearest E4M3 codes, ties to even, saturating at 448; NaN stays NaN."""
    magnitude = np.abs(values).astype(np.float64)
    exponent = np.floor(np.log2(np.maximum(magnitude, 2.0**-6)))
    step = np.exp2(exponent - 3)
    rounded = np.minimum(np.rint(magnitude / step) * step, _E4M3_MAX)
    exponent = np.floor(np.log2(np.maximum(rounded, 2.0**-6)))
    normal = rounded >= 2.0**-6
    mantissa = np.where(normal, rounded / np.exp2(exponent) - 1, rounded / 2.0**-6) * 8
    code = np.where(normal, (exponent + 7) * 8 + mantissa, mantissa)
    code = np.where(np.isnan(values), 127, code)
    signs: Bytes = np.signbit(values).astype(np.uint8) << np.uint8(7)
    return code.astype(np.uint8) | signs


def quantize_calibrated(values: Floats, name: str, moments: Floats) -> Bytes:
    """Raw bytes of values [rows, columns] in Q4_0, Q4_1 or Q8_0, with the least error on inputs like the calibration's.

    `moments` is the sum of x x^T over inputs x [columns, columns], or only its diagonal [columns]. Scales are searched
    for, weighted by the moments; with the full matrix each column's rounding error is spread over the later ones.
    """
    if name not in CALIBRATED:
        raise ConfigError(f"--calibrate works with {', '.join(CALIBRATED)}, not {name}")
    rows, columns = values.shape
    w = values.astype(np.float32).copy()
    if moments.ndim == 1:
        diagonal = np.maximum(moments, moments.mean() * 1e-4 + 1e-12).astype(np.float32)
        parts = []
        for first in range(0, columns, 32):
            block = w[:, first : first + 32]
            d, m = _search(block, name, np.broadcast_to(diagonal[first : first + 32], block.shape))
            parts.append(_store(name, d, m, _round(block, name, d, m)))
        return np.concatenate(parts, axis=1)
    factor = _inverse_factor(moments.astype(np.float64))
    weight = (1 / np.diagonal(factor) ** 2).astype(np.float32)
    factor = factor.astype(np.float32)
    parts = []
    for first in range(0, columns, 32):
        last = first + 32
        block = w[:, first:last]
        d, m = _search(block, name, np.broadcast_to(weight[first:last], block.shape))
        q = np.empty((rows, 32), np.uint8)
        errors = np.empty((rows, 32), np.float32)
        for i in range(32):
            column = block[:, i : i + 1]
            q[:, i : i + 1] = _round(column, name, d, m)
            errors[:, i : i + 1] = (column - _value(q[:, i : i + 1], name, d, m)) / factor[first + i, first + i]
            if i < 31:
                block[:, i + 1 :] -= errors[:, i : i + 1] * factor[first + i, first + i + 1 : last]
        w[:, last:] -= errors @ factor[first:last, last:]
        parts.append(_store(name, d, m, q))
    return np.concatenate(parts, axis=1)


def _inverse_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper Cholesky factor of the inverse of damped moments."""
    size = len(moments)
    damped = moments + np.eye(size) * (np.trace(moments) / size * 0.01 + 1e-9)
    factor: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(damped)).T
    return factor


def _search(block: Floats, name: str, weight: Floats) -> tuple[Floats, Floats]:
    """Scale and minimum of each row's block [rows, 32] that give the least weighted squared error, as halves hold them."""
    if name == "Q4_1":
        low, high = block.min(1, keepdims=True), block.max(1, keepdims=True)
        middle = (low + high) / 2
        starts = [
            ((high - low) / 15 * f, middle - (high - low) / 2 * f) for f in np.linspace(0.7, 1.02, 17, dtype=np.float32)
        ]
    else:
        half = 8 if name == "Q4_0" else 127
        extreme = _signed_extreme(block)
        grid = np.linspace(0.65, 1.1, 19, dtype=np.float32) if name == "Q4_0" else np.array([1.0], np.float32)
        zero = np.zeros_like(extreme)
        starts = [(sign * extreme / half * f, zero) for f in grid for sign in ((-1, 1) if name == "Q4_0" else (1,))]
    best_d, best_m = starts[0]
    best = np.full((*block.shape[:1], 1), np.inf, np.float32)
    for d, m in starts:
        d, m = d.astype(np.float16).astype(np.float32), m.astype(np.float16).astype(np.float32)
        error = (weight * (block - _value(_round(block, name, d, m), name, d, m)) ** 2).sum(1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        best_d, best_m = np.where(better, d, best_d), np.where(better, m, best_m)
    return best_d.astype(np.float32), best_m.astype(np.float32)


def _round(values: Floats, name: str, d: Floats, m: Floats) -> Bytes:
    """Codes nearest to values: 0 to 15, or for Q8_0 the byte of a signed number."""
    scaled = np.rint((values - m) * _inverse(d))
    if name == "Q8_0":
        signed: NDArray[np.int8] = scaled.clip(-127, 127).astype(np.int8)
        return signed.view(np.uint8)
    offset = 8 if name == "Q4_0" else 0
    codes: Bytes = (scaled + offset).clip(0, 15).astype(np.uint8)
    return codes


def _value(q: Bytes, name: str, d: Floats, m: Floats) -> Floats:
    if name == "Q8_0":
        return d * q.view(np.int8)
    return d * (q.astype(np.float32) - (8 if name == "Q4_0" else 0)) + m


def _store(name: str, d: Floats, m: Floats, q: Bytes) -> Bytes:
    if name == "Q8_0":
        return np.concatenate([_halves(d), q], axis=1)
    head = [_halves(d)] if name == "Q4_0" else [_halves(d), _halves(m)]
    return np.concatenate([*head, _nibbles(q)], axis=1)
