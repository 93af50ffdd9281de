"""float32 -> blocks of 256 weights: Q4_K, Q5_K, Q6_K, with the searches that ggml's `quantize_row_*_K_ref` makes.

A block's eight or sixteen parts have scales (and minima) of their own, held in 6 or 8 bits beside two halves.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_TINY = 1e-15


def _affine_parts(parts: Floats, top: int, first: float, steps: int) -> tuple[Floats, Floats]:
    """Scale and minimum (not above 0) of each row of parts [n, 32] with the least error, large weights counting more.

    ggml's make_qkx2_quants: tries `steps` + 1 roundings and solves for the best scale and minimum of each.
    """
    weight = np.sqrt((parts**2).mean(1, keepdims=True)) + np.abs(parts)
    low, high = np.minimum(parts.min(1, keepdims=True), 0), parts.max(1, keepdims=True)
    width = np.where(high == low, 1, high - low)
    sum_w, sum_x = weight.sum(1, keepdims=True), (weight * parts).sum(1, keepdims=True)

    def error(q: Floats, scale: Floats, minimum: Floats) -> Floats:
        found: Floats = (weight * (scale * q + minimum - parts) ** 2).sum(1, keepdims=True)
        return found

    scale, minimum = (width / np.float32(top)).astype(np.float32), low
    best = error(np.rint((parts - low) * (np.float32(top) / width)).clip(0, top), scale, minimum)
    for step in range(steps + 1):
        q = np.rint((parts - low) * (np.float32(first + 0.1 * step + top) / width)).clip(0, top)
        sum_q, sum_q2 = (weight * q).sum(1, keepdims=True), (weight * q * q).sum(1, keepdims=True)
        sum_xq = (weight * parts * q).sum(1, keepdims=True)
        determinant = sum_w * sum_q2 - sum_q * sum_q
        s = (sum_w * sum_xq - sum_x * sum_q) / determinant
        m = (sum_q2 * sum_x - sum_q * sum_xq) / determinant
        s, m = np.where(m > 0, sum_xq / sum_q2, s), np.minimum(m, 0)
        found = error(q, s, m)
        better = (determinant > 0) & (found < best)
        best, scale, minimum = (
            np.where(better, a, b) for a, b in ((found, best), (s, scale), (m, minimum))
        )  # fmt: skip
    return np.where(high == low, 0, scale).astype(np.float32), -minimum.astype(np.float32)


def _pack_scales(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight 6-bit scales and minima [n, 8] in 12 bytes; the inverse of `herd.quant.dequantize.k_scales`."""
    low = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    mid = minima[:, :4] | (minima[:, 4:] >> 4 << 6)
    high = (scales[:, 4:] & 15) | (minima[:, 4:] << 4)
    return np.concatenate([low, mid, high], axis=1).astype(np.uint8)


def _half(values: Floats) -> tuple[Bytes, Floats]:
    halves = values.astype(np.float16)
    return halves.view(np.uint8).reshape(-1, 2), halves.astype(np.float32)


def _q45_k(blocks: Floats, bits: int) -> Bytes:
    top = 2**bits - 1
    parts = blocks.reshape(-1, 32)
    scale, minimum = (x.reshape(-1, 8) for x in _affine_parts(parts, top, *((-1.0, 20) if bits == 4 else (-0.5, 15))))
    heads, codes, steps = [], [], []
    for values in (scale, minimum):
        most = values.max(1, keepdims=True)
        codes.append(np.rint(values * np.where(most > 0, 63 / most, 0)).clip(0, 63).astype(np.uint8))
        raw, stored = _half(most / np.float32(63))
        heads.append(raw)
        steps.append((stored * codes[-1]).reshape(-1, 1))
    d, m = steps
    q = np.where(d == 0, 0, np.rint((parts + m) / d)).clip(0, top).astype(np.uint8).reshape(-1, 4, 2, 32)
    low = (q[:, :, 0] & 15) | (q[:, :, 1] << 4)
    out = [*heads, _pack_scales(*codes)]
    if bits == 5:
        out.append(np.packbits(q.reshape(-1, 8, 32) >> 4, axis=1, bitorder="little").reshape(-1, 32))
    return np.concatenate([*out, low.reshape(-1, 128)], axis=1)


def _symmetric_parts(parts: Floats) -> Floats:
    """The scale of each row of parts [n, 16] for codes -32 to 31, with the least error weighted by x^2 (make_qx_quants)."""
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(1, keepdims=True), 1)
    weight = parts * parts

    def sums(nudge: float) -> tuple[Floats, Floats]:
        q = np.rint(parts * (np.float32(-(32 + nudge)) / extreme)).clip(-32, 31)
        return (weight * parts * q).sum(1, keepdims=True), (weight * q * q).sum(1, keepdims=True)

    xq, q2 = sums(0)
    scale = np.where(q2 > 0, xq / q2, 0)
    best = scale * xq
    for step in (*range(-9, 0), *range(1, 10)):
        xq, q2 = sums(0.1 * step)
        better = (q2 > 0) & (xq * xq > best * q2)
        scale = np.where(better, xq / q2, scale)
        best = np.where(better, scale * xq, best)
    return np.where(np.abs(extreme) < _TINY, 0, scale).astype(np.float32)


def _q6_k(blocks: Floats) -> Bytes:
    parts = blocks.reshape(-1, 16)
    scale = _symmetric_parts(parts).reshape(-1, 16)
    extreme = np.take_along_axis(scale, np.abs(scale).argmax(1, keepdims=True), 1)
    inverse = np.where(np.abs(extreme) < _TINY, 0, -128 / extreme).astype(np.float32)
    codes = np.rint(scale * inverse).clip(-128, 127).astype(np.int8)
    head, stored = _half(np.where(inverse == 0, 0, 1 / inverse).astype(np.float32))
    d = (stored * codes).reshape(-1, 1)
    q = (np.where(d == 0, 0, np.rint(parts / d)).clip(-32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate([(q[:, :, 0] & 15) | (q[:, :, 2] << 4), (q[:, :, 1] & 15) | (q[:, :, 3] << 4)], axis=2)
    high = (q >> 4 << np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)).sum(2, dtype=np.uint8)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), codes.view(np.uint8), head], axis=1)


def quantize_k(values: Floats, name: str) -> Bytes:
    """Raw blocks [n, bytes a block] of values [n, 256] in Q4_K, Q5_K or Q6_K."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _q6_k(values) if name == "Q6_K" else _q45_k(values, int(name[1]))
