"""Refusals of weights that are no numbers, or that a number format cannot hold, by tensor and row."""

import numpy as np
from numpy.typing import NDArray

from herd.errors import FormatError


def not_finite(name: str, row: int) -> FormatError:
    """The refusal of a row with NaN or infinity."""
    return FormatError(
        f"tensor {name}, row {row}: holds NaN or infinity, with which a model answers nonsense; the training run or "
        "conversion that wrote it failed, use another checkpoint"
    )


def too_large(name: str, row: int, values: NDArray[np.float32], fmt: str) -> FormatError:
    """The refusal of a row of `values` that format `fmt` cannot hold."""
    return FormatError(
        f"tensor {name}, row {row}: {np.abs(values).max():.6g} is too large for {fmt}; write it as BF16 or F32"
    )


def check_finite(name: str, values: NDArray[np.float32], first: int) -> None:
    """FormatError naming the first row of values [rows, columns] that is not finite; row 0 is row `first` of the tensor."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise not_finite(name, first + int(finite.argmin()))
