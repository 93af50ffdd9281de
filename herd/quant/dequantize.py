"""Blocks of quantized weights -> float32, in numpy. This is the meaning of each format; kernels are checked against it.

Block layouts and formulas: ggml's `ggml-common.h` and `ggml-quants.c`; FP8 e4m3: OCP 8-bit floating point, "fn" flavour.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from herd.errors import FormatError
from herd.quant.formats import number_format

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def dequantize(data: Bytes, name: str, shape: tuple[int, ...], scale: Floats | None = None) -> Floats:
    """float32 weights of `shape` from the raw bytes of a tensor in format `name`.

    `scale` multiplies each row (shape [rows, 1]); only F8_E4M3 has one. FormatError when bytes and shape disagree.
    """
    fmt = number_format(name)
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    expected = rows * fmt.row_bytes(shape[-1])
    if data.nbytes != expected:
        raise FormatError(f"{name} tensor of shape {list(shape)} has {data.nbytes} bytes; expected {expected}")
    if fmt.block == 1:
        values = _SCALARS[name](data)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            values = _BLOCKS[name](data.reshape(-1, fmt.bytes))
    values = values.reshape(shape)
    return values if scale is None else values * scale.reshape(-1, 1)


def bf16_to_f32(data: Bytes) -> Floats:
    """BF16 bytes -> float32."""
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(values: Floats) -> Bytes:
    """float32 -> BF16 bytes, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16).view(np.uint8)


@lru_cache(maxsize=1)
def e4m3_table() -> Floats:
    """The 256 values of FP8 e4m3fn: no infinities, 0x7F and 0xFF are NaN, largest 448."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    values[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float32)


_SCALARS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": lambda data: data.view(np.float32),
    "F16": lambda data: data.view(np.float16).astype(np.float32),
    "BF16": bf16_to_f32,
    "F8_E4M3": lambda data: e4m3_table()[data],
}


def _half(blocks: Bytes, at: int) -> Floats:
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low halves of all bytes, then high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _q4_0(b: Bytes) -> Floats:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Floats:
    return _half(b, 0) * _nibbles(b[:, 4:]) + _half(b, 2)


def _q5_0(b: Bytes) -> Floats:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Floats:
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _fifth_bits(b, 4)) + _half(b, 2)


def _q8_0(b: Bytes) -> Floats:
    return _half(b, 0) * b[:, 2:].view(np.int8)


def k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and minima that Q4_K and Q5_K pack in 12 bytes."""
    low, mid, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    minima = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=1)
    return scales, minima


def _q2_k(b: Bytes) -> Floats:
    scales, packed = b[:, :16], b[:, 16:80].reshape(-1, 2, 1, 32)
    quants = (packed >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    d, dmin = _half(b, 80), _half(b, 82)
    values: Floats = (d * (scales & 15))[:, :, None] * quants.reshape(-1, 16, 16) - (dmin * (scales >> 4))[:, :, None]
    return values.astype(np.float32, copy=False)


def _q3_k(b: Bytes) -> Floats:
    high = np.unpackbits(b[:, :32].reshape(-1, 1, 32), axis=1, bitorder="little").reshape(-1, 2, 4, 32)
    packed = b[:, 32:96].reshape(-1, 2, 1, 32)
    quants = ((packed >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3).astype(np.int8)
    signed = quants - np.where(high == 0, 4, 0).astype(np.int8)
    raw = b[:, 96:108]
    low = np.concatenate([raw[:, :8] & 15, raw[:, :8] >> 4], axis=1)
    top = np.concatenate([(raw[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = (low | (top << 4)).astype(np.int8) - 32
    values: Floats = (_half(b, 108) * scales)[:, :, None] * signed.reshape(-1, 16, 16)
    return values.astype(np.float32, copy=False)


def _q4_k(b: Bytes) -> Floats:
    scales, minima = k_scales(b[:, 4:16])
    packed = b[:, 16:].reshape(-1, 4, 1, 32)
    quants = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    values: Floats = (_half(b, 0) * scales)[:, :, None] * quants - (_half(b, 2) * minima)[:, :, None]
    return values.astype(np.float32, copy=False)


def _q5_k(b: Bytes) -> Floats:
    scales, minima = k_scales(b[:, 4:16])
    packed = b[:, 48:].reshape(-1, 4, 1, 32)
    quants = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    high = (b[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    quants = quants | (high << 4)
    values: Floats = (_half(b, 0) * scales)[:, :, None] * quants - (_half(b, 2) * minima)[:, :, None]
    return values.astype(np.float32, copy=False)


def _q6_k(b: Bytes) -> Floats:
    packed = b[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 2, 4, 32)
    packed = b[:, 128:192].reshape(-1, 2, 1, 32)
    high = (packed >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    quants = (low | (high << 4)).astype(np.int16).reshape(-1, 16, 16) - 32
    values: Floats = (_half(b, 208) * b[:, 192:208].view(np.int8))[:, :, None] * quants
    return values.astype(np.float32, copy=False)


_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _iq4_nl(b: Bytes) -> Floats:
    return _half(b, 0) * _IQ4[_nibbles(b[:, 2:])]


def _iq4_xs(b: Bytes) -> Floats:
    high = b[:, 2:4].copy().view(np.uint16)
    low = (b[:, 4:8, None] >> np.array([0, 4], np.uint8)) & 15
    top = (high >> (2 * np.arange(8, dtype=np.uint16)).reshape(1, 8)) & 3
    scales = (low.reshape(-1, 8) | (top << 4).astype(np.uint8)).astype(np.int8) - 32
    packed = b[:, 8:].reshape(-1, 8, 16)
    quants = _IQ4[np.concatenate([packed & 15, packed >> 4], axis=2)]
    values: Floats = (_half(b, 0) * scales)[:, :, None] * quants
    return values.astype(np.float32, copy=False)


def _mxfp4(b: Bytes) -> Floats:
    exponent = b[:, :1].astype(np.float32)
    return (np.exp2(exponent - 128) * _FP4[_nibbles(b[:, 1:])]).astype(np.float32)


_BLOCKS: dict[str, Callable[[Bytes], Floats]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "MXFP4": _mxfp4,
}  # fmt: skip
