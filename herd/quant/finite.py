"""Find weights that are no numbers: NaN, infinity, or what a number format made of a value that was too large for it."""

import numpy as np
from numpy.typing import NDArray

from herd.quant.formats import number_format

# Where a block keeps its float16 scales and minima, in bytes; block layouts: ggml's `ggml-common.h`.
_HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,),
}  # fmt: skip
# Floats: an unsigned integer as wide, and the bits that are all set in NaN and infinity alone.
_FLOATS = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E4M3": (np.uint8, 0x7F),
}


def broken_row(raw: NDArray[np.uint8], name: str) -> int | None:
    """The first row of raw bytes [rows, bytes a row] in format `name` that holds NaN or infinity; None where all are finite."""
    if name in _FLOATS:
        kind, bits = _FLOATS[name]
        broken = (raw.view(kind) & kind(bits)) == bits
    else:
        blocks = raw.reshape(len(raw), -1, number_format(name).bytes)
        if name == "MXFP4":
            broken = blocks[:, :, 0] == 255
        else:
            halves = np.concatenate([blocks[:, :, at : at + 2] for at in _HALVES[name]], axis=2)
            broken = (np.ascontiguousarray(halves).view(np.uint16) & 0x7C00).reshape(len(raw), -1) == 0x7C00
    rows = broken.any(axis=1)
    return int(rows.argmax()) if rows.any() else None
