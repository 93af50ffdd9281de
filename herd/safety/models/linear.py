"""A linear classifier over hashed features: weights of eight bits in an .npz file, and the training of one."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from herd.safety.models.features import SIZE

_HERE = Path(__file__).parent


class Linear:
    """Heads over the same features: `weights` (heads, SIZE) int8, `scale` and `bias` (heads,) float32, `names` of the heads; `rare`
    (SIZE,) uint8 says how much a feature counts, in sixteenths.
    """

    def __init__(self, weights: Any, scale: Any, bias: Any, names: Sequence[str], rare: Any) -> None:
        self.weights, self.scale, self.bias, self.names, self.rare = weights, scale, bias, tuple(names), rare

    def margins(self, indices: Any, values: Any) -> Any:
        """The log-odds of each head, (heads,) float32."""
        indices, values = weighed((indices, values), self.rare)
        return (self.weights[:, indices].astype(np.float32) @ values) * self.scale + self.bias

    def save(self, path: Path) -> None:
        """Write the weights, compressed."""
        names = np.array(self.names)
        np.savez_compressed(path, weights=self.weights, scale=self.scale, bias=self.bias, names=names, rare=self.rare)


@lru_cache(maxsize=4)
def load(name: str) -> Linear:
    """An embedded classifier by name."""
    with np.load(_HERE / f"{name}.npz") as file:
        return Linear(file["weights"], file["scale"], file["bias"], [str(n) for n in file["names"]], file["rare"])


def rarity(rows: Sequence[tuple[Any, Any]]) -> Any:
    """How much each feature counts: the logarithm of how few rows have it (inverse document frequency), in sixteenths, (SIZE,) uint8.

    Features of a single row count nothing.
    """
    counts = np.bincount(np.concatenate([indices for indices, _ in rows]), minlength=SIZE)
    weight = np.log((1 + len(rows)) / (1 + counts)) + 1
    return np.clip(np.rint(16 * np.where(counts > 1, weight, 0)), 0, 255).astype(np.uint8)


def weighed(row: tuple[Any, Any], rare: Any) -> tuple[Any, Any]:
    """A row's features by how rare they are, of length three."""
    values = row[1] * rare[row[0]]
    return row[0], (3 * values / max(float(np.linalg.norm(values)), 1e-9)).astype(np.float32)


def fit(
    rows: Sequence[tuple[Any, Any]],
    labels: Any,
    weights: Any,
    *,
    rounds: int = 120,
    decay: float = 2e-5,
    rate: float = 0.5,
) -> tuple[Any, float]:
    """Weights (SIZE,) and bias that predict `labels` (0 or 1) by logistic regression, each row counted `weights` times.

    All rows at once with Adam (Kingma and Ba 2015, arXiv 1412.6980); `decay` is the strength of the squared penalty.
    """
    indices = np.concatenate([r[0] for r in rows]).astype(np.int32)
    values = np.concatenate([r[1] for r in rows])
    lengths = np.array([len(r[0]) for r in rows])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    labels, weights = np.asarray(labels, np.float32), np.asarray(weights, np.float32)
    weights = weights / weights.sum()
    w: Any = np.zeros(SIZE, np.float32)
    first: Any = np.zeros(SIZE, np.float32)
    second: Any = np.zeros(SIZE, np.float32)
    bias, bias_first, bias_second = 0.0, 0.0, 0.0
    for step in range(1, rounds + 1):
        margin = np.add.reduceat(values * w[indices], starts) + bias
        error = (1 / (1 + np.exp(-margin)) - labels) * weights
        slope = np.bincount(indices, values * np.repeat(error, lengths), SIZE).astype(np.float32) + decay * w
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope * slope
        pace = rate * min(1.0, 2 * (1 - step / (rounds + 1)))
        w = w - pace * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-7)
        grad = float(error.sum())
        bias_first, bias_second = 0.9 * bias_first + 0.1 * grad, 0.99 * bias_second + 0.01 * grad * grad
        bias -= pace * (bias_first / (1 - 0.9**step)) / (np.sqrt(bias_second / (1 - 0.99**step)) + 1e-7)
    return w, float(bias)


def pack(heads: dict[str, tuple[Any, float]], rare: Any) -> Linear:
    """Heads as eight-bit weights; the largest 0.02% of a head's weights are clipped."""
    weights, scales, biases = [], [], []
    for w, bias in heads.values():
        scale = float(np.quantile(np.abs(w), 0.9998)) / 127 or 1.0
        weights.append(np.clip(np.rint(w / scale), -127, 127).astype(np.int8))
        scales.append(scale)
        biases.append(bias)
    return Linear(np.stack(weights), np.array(scales, np.float32), np.array(biases, np.float32), list(heads), rare)
