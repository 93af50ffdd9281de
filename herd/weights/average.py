"""The mean of several checkpoints of one model, as Llama 3 averages those of its annealing and of its preference tuning (Polyak 1991)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from herd.errors import ConfigError
from herd.weights.checkpoint import Checkpoint, StoredTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def averaged(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The first checkpoint with the mean of all in each tensor, in float32; read when used. ConfigError when shapes differ."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.config != first.config:
            raise ConfigError(
                f"{other.path}: has another shape than {first.path}; only checkpoints of one model have a mean"
            )
    tensors = {name: _mean([one.tensors[name] for one in checkpoints]) for name in first.tensors}
    return replace(first, tensors=tensors)


def _mean(stored: list[StoredTensor]) -> StoredTensor:
    import numpy as np

    def rows(first: int, last: int) -> "NDArray[np.uint8]":
        total = sum(one.float32(first, last).astype(np.float64) for one in stored)
        mean = np.atleast_2d(np.asarray(total / len(stored), np.float32))
        return np.ascontiguousarray(mean).view(np.uint8)

    return StoredTensor("F32", stored[0].shape, rows)
