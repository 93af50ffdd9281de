"""Intervals and paired comparisons, once for evaluation, arena, red team and training.

Scores are arrays of one number an item. `clusters` names the group of each item (questions on one passage, prompts of one
person): items of a group are not independent, and intervals that forget it are too narrow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from herd.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval at `level`."""

    value: float
    low: float
    high: float
    level: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Paired:
    """Two systems on the same items: the mean of b - a, an exact McNemar test where scores are right or wrong, and how many
    items of this kind would tell the two apart at 5% with a power of 80%.
    """

    difference: Interval
    p_value: float | None
    better: int  # items on which b scores higher
    worse: int
    items: int
    items_needed: int | None  # None where there is no difference to tell


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; expected a number between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)


def _scores(values: ArrayLike, what: str = "scores") -> Floats:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found):
        raise ConfigError(f"{what}: shape {list(found.shape)}; expected one number an item, at least one item")
    if not np.isfinite(found).all():
        raise ConfigError(f"{what}: item {int(np.argmin(np.isfinite(found)))} is not a finite number")
    return found


def proportion(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (1927): sound near 0 and 1 and for few trials, unlike the normal one."""
    if not 0 <= successes <= trials or trials < 1:
        raise ConfigError(f"{successes} of {trials}: expected at least one trial, and no more successes than trials")
    z = _quantile(level)
    p, scale = successes / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / scale
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), level)


def mean(values: ArrayLike, clusters: Sequence[Any] | None = None, level: float = 0.95) -> Interval:
    """Mean with a normal interval; for right-or-wrong items that is 1.96 sqrt(S (1 - S) / N), the paper's (arXiv 2407.21783,
    section 5.1.1). With `clusters` the standard error is the clustered one (Miller, arXiv 2411.00640).
    """
    scores = _scores(values)
    middle, half = float(scores.mean()), _quantile(level) * standard_error(scores, clusters)
    return Interval(middle, middle - half, middle + half, level)


def standard_error(values: ArrayLike, clusters: Sequence[Any] | None = None) -> float:
    """Standard error of the mean, clustered where clusters are given; NaN where all items are one cluster's, which says nothing of others."""
    scores = _scores(values)
    n, off = len(scores), scores - scores.mean()
    if clusters is None:
        return float(np.sqrt((off**2).sum()) / n)
    if len(clusters) != n:
        raise ConfigError(f"{len(clusters)} clusters for {n} items; expected one an item")
    _, group = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    if n > 1 and not group.any():
        return math.nan
    return float(np.sqrt((np.bincount(group, off) ** 2).sum()) / n)


def paired(a: ArrayLike, b: ArrayLike, clusters: Sequence[Any] | None = None, level: float = 0.95) -> Paired:
    """Compare two systems on the same items, item by item."""
    first, second = _scores(a, "scores of a"), _scores(b, "scores of b")
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} scores beside {len(second)}; expected the same items on both sides")
    gap = second - first
    better, worse = int((gap > 0).sum()), int((gap < 0).sum())
    binary = bool(np.isin(np.concatenate((first, second)), (0.0, 1.0)).all())
    centre = float(gap.mean())
    needed = None
    spread = standard_error(gap, clusters) * math.sqrt(len(gap))  # clusters that agree carry less than their items
    if centre and math.isfinite(spread):
        z = _quantile(0.95) + NormalDist().inv_cdf(0.8)
        needed = max(1, math.ceil((z * spread / centre) ** 2))
    return Paired(
        mean(gap, clusters, level), mcnemar(better, worse) if binary else None, better, worse, len(gap), needed
    )  # fmt: skip


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p-value of the exact McNemar test: of the items on which two systems differ, how many each one wins."""
    n, fewer = better + worse, min(better, worse)
    if not n:
        return 1.0
    log = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, log)))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    items: int,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> Interval:
    """Percentile interval of `statistic`, a function of item numbers, over resampled items, or whole clusters of them."""
    if items < 1 or draws < 2:
        raise ConfigError(f"{items} items, {draws} draws; expected at least one item and two draws")
    generator = np.random.default_rng(seed)
    if clusters is None:
        drawn = (generator.integers(0, items, items) for _ in range(draws))
    else:
        if len(clusters) != items:
            raise ConfigError(f"{len(clusters)} clusters for {items} items; expected one an item")
        _, group = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
        members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
        drawn = (
            np.concatenate([members[g] for g in generator.integers(0, len(members), len(members))])
            for _ in range(draws)
        )
    found = np.array([statistic(numbers) for numbers in drawn])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(np.arange(items))), float(low), float(high), level)


def krippendorff_alpha(ratings: ArrayLike, metric: str = "ordinal") -> float:
    """Agreement of raters beyond chance: 1 is perfect, 0 is chance. `ratings` are [raters, items], nan where there is none; `metric`
    is nominal, ordinal or interval. nan where all ratings are alike or no item has two (Krippendorff, 2011).
    """
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2 or metric not in ("nominal", "ordinal", "interval"):
        raise ConfigError(
            f"ratings {list(table.shape)} by {metric}: expected raters by items; nominal, ordinal, interval"
        )
    values = np.unique(table[~np.isnan(table)])
    counts = (table[..., None] == values).sum(0).astype(np.float64)  # [items, values]
    each = counts.sum(1)
    counts, each = counts[each > 1], each[each > 1]
    if not len(counts):
        return math.nan
    met = np.einsum("uc,uk,u->ck", counts, counts, 1 / (each - 1)) - np.diag((counts / (each - 1)[:, None]).sum(0))
    own = met.sum(1)
    if metric == "ordinal":
        place = np.cumsum(own) - own / 2  # the sum of what lies between two values, both counted half
    else:
        place = values
    apart = (place[:, None] != place[None, :]) if metric == "nominal" else (place[:, None] - place[None, :]) ** 2
    expected = float((np.outer(own, own) * apart).sum() / (own.sum() - 1))
    return math.nan if expected == 0 else float(1 - (met * apart).sum() / expected)
