"""float32 values -> the bytes of a floating-point format, rounded to nearest even."""

import numpy as np
from numpy.typing import NDArray

from herd.errors import FormatError
from herd.quant.dequantize import f32_to_bf16

FLOATS = ("F32", "F16", "BF16")


def encode(values: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    """Raw bytes [rows, bytes a row] of values [rows, columns] in F32, F16 or BF16.

    What is too large for the format becomes infinite. FormatError for another format.
    """
    rows = np.atleast_2d(values)
    if name == "F32":
        return np.ascontiguousarray(rows, "<f4").view(np.uint8)
    if name == "F16":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows.astype("<f2")).view(np.uint8)
    if name == "BF16":
        return f32_to_bf16(rows).reshape(len(rows), -1)
    raise FormatError(f"cannot write {name} from other weights here; it is made by quantizing")
