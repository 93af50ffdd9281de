"""Which two models should meet next: those whose vote narrows the intervals most."""

import numpy as np
from numpy.typing import NDArray

from herd.arena.rank import Floats, Table, bradley_terry


def gains(table: Table, *, prior: float = 0.5) -> Floats:
    """[models, models]: by how much one more vote between two models lowers the sum of the ratings' variances.

    With covariance C of the ratings, p the chance of the first and d = e_i - e_j: p (1 - p) |C d|^2 / (1 + p (1 - p) d' C d), the
    A-optimal design's gain (Chaloner and Verdinelli, 1995).
    """
    size = len(table.names)
    rating = bradley_terry(table, prior=prior).rating
    chance = 1 / (1 + np.exp(rating[None, :] - rating[:, None]))
    spread = chance * (1 - chance)
    games = table.counts.sum(2) + table.counts.sum(2).T + prior * (1 - np.eye(size))
    weight = games * spread
    np.fill_diagonal(weight, 0)
    covariance = np.linalg.pinv(np.diag(weight.sum(1)) - weight, hermitian=True)
    own, squared = np.diag(covariance), covariance @ covariance
    variance = own[:, None] + own[None, :] - 2 * covariance
    length = np.diag(squared)[:, None] + np.diag(squared)[None, :] - 2 * squared
    found: Floats = spread * length / (1 + spread * variance)
    np.fill_diagonal(found, 0)
    return found


def choose(
    table: Table, generator: np.random.Generator, *, explore: float = 0.1, prior: float = 0.5
) -> tuple[int, int]:
    """Numbers of the next two models, in random order: one of the best tenth of pairs, or with chance `explore` any pair."""
    size = len(table.names)
    if size < 3 or generator.random() < explore:
        pair: NDArray[np.int64] = generator.choice(size, 2, replace=False)
    else:
        upper = np.triu_indices(size, 1)
        gain = gains(table, prior=prior)[upper]
        best = np.argsort(-gain)[: max(1, len(gain) // 10)]
        pick = int(generator.choice(best, p=gain[best] / gain[best].sum()))
        pair = generator.permutation(np.array([upper[0][pick], upper[1][pick]]))
    return int(pair[0]), int(pair[1])
