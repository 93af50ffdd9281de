"""Ratings from votes: Bradley-Terry by Newton's method on a table of pair counts, style control, intervals, Elo.

A rating is a natural logit: a model beats another with probability 1 / (1 + exp(other - own)); ratings sum to zero. `points` turns
them into the scale of chess. A tie is half a win for each side, as in Chatbot Arena (Chiang et al., arXiv 2403.04132).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from herd.errors import ConfigError

Floats = NDArray[np.float64]
OUTCOMES = (1.0, 0.5, 0.0)  # of the model named first: won, tied, lost
_STEPS, _TOLERANCE = 100, 1e-12


def points(rating: float | Floats, *, scale: float = 400.0, offset: float = 1000.0) -> float | Floats:
    """On the scale of Elo: 400 points are ten to one."""
    return rating * (scale / math.log(10)) + offset


@dataclass(frozen=True)
class Table:
    """Votes counted by pair and outcome: [models, models, 3]; `counts[i, j, 0]` of the votes between i and j, i named first, that i won.

    Which model stood left and which right does not matter here: what (j, i) counts is added to (i, j).
    """

    names: tuple[str, ...]
    counts: Floats

    @classmethod
    def of(
        cls, names: Sequence[str], first: NDArray[np.int64], second: NDArray[np.int64], outcome: NDArray[np.int64],
        weights: Floats | None = None,
    ) -> "Table":  # fmt: skip
        """From one row a vote: numbers of the two models, and 0 where the first won, 1 for a tie, 2 where it lost."""
        size = len(names)
        for what, values, high in (("model", first, size), ("model", second, size), ("outcome", outcome, 3)):
            if len(values) and not (values.min() >= 0 and values.max() < high):
                raise ConfigError(f"votes: {what} {int(values.min())} to {int(values.max())}; expected 0 to {high - 1}")
        if np.any(first == second):
            raise ConfigError(f"votes: {names[int(first[first == second][0])]} is compared with itself")
        flat = np.bincount((first * size + second) * 3 + outcome, weights, size * size * 3).astype(np.float64)
        return cls(tuple(names), flat.reshape(size, size, 3))

    @property
    def votes(self) -> float:
        """Votes in all."""
        return float(self.counts.sum())

    def wins(self) -> Floats:
        """[models, models]: how often a row's model beat a column's, ties half to each."""
        one_way = self.counts[..., 0] + 0.5 * self.counts[..., 1]
        other_way = self.counts[..., 2] + 0.5 * self.counts[..., 1]
        found: Floats = one_way + other_way.T
        return found


@dataclass(frozen=True)
class Ratings:
    """Ratings as natural logits, with the bounds of their intervals where they were asked for; `notes` say what was assumed."""

    names: tuple[str, ...]
    rating: Floats
    covariance: Floats | None = None
    low: Floats | None = None
    high: Floats | None = None
    style: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def order(self) -> NDArray[np.int64]:
        """Numbers of the models, the best first."""
        return np.argsort(-self.rating, kind="stable")

    def win_rates(self) -> Floats:
        """[models, models]: the probability that a row's model beats a column's."""
        found: Floats = 1 / (1 + np.exp(self.rating[None, :] - self.rating[:, None]))
        return found

    def ranks(self) -> list[tuple[int, int]]:
        """For each model the best and worst rank that the intervals allow: others are ahead when they lie wholly above."""
        if self.low is None or self.high is None:
            raise ConfigError("ranks need intervals")
        return [
            (1 + int((self.low > self.high[i]).sum()), len(self.names) - int((self.high < self.low[i]).sum()))
            for i in range(len(self.names))
        ]


def unconnected(wins: Floats) -> list[list[int]]:
    """Groups of models of which no one beat any of the group before: with more than one, ratings are not finite.

    Strongly connected components of the graph of wins (Ford, 1957: one component is what a maximum needs).
    """
    reach = wins > 0
    np.fill_diagonal(reach, True)
    if reach.all():
        return [list(range(len(wins)))]
    for _ in range(max(1, math.ceil(math.log2(len(wins) + 1)))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    both = reach & reach.T
    left, groups = set(range(len(wins))), []
    while left:
        members = [int(j) for j in np.flatnonzero(both[min(left)])]
        groups.append(members)
        left -= set(members)
    return groups


def bradley_terry(table: Table, *, prior: float = 0.0) -> Ratings:
    """The maximum likelihood ratings. `prior` adds that many tied votes between each pair.

    ConfigError, with the names, where no finite ratings exist: some models never lost, or never won, against the rest.
    """
    wins = table.wins()
    if len(wins) < 2:
        raise ConfigError(f"{len(wins)} models; expected at least two")
    if prior:
        wins = wins + prior / 2 * (1 - np.eye(len(wins)))
    groups = unconnected(wins)
    if len(groups) > 1:
        few = min(groups, key=len)
        shown = ", ".join(table.names[i] for i in few[:3]) + (", ..." if len(few) > 3 else "")
        raise ConfigError(
            f"{shown}: only won, or only lost, against all others; ratings are not finite; add votes or a prior"
        )
    return Ratings(table.names, newton(wins[None], np.zeros((1, len(wins))))[0])


def newton(wins: Floats, start: Floats) -> Floats:
    """Ratings [batch, models] of tables of wins [batch, models, models], each summing to zero."""
    games, own = wins + wins.transpose(0, 2, 1), wins.sum(2)
    rating = start - start.mean(1, keepdims=True)
    size = wins.shape[1]

    def loss(r: Floats) -> Floats:
        found: Floats = (wins * np.logaddexp(0, r[:, None, :] - r[:, :, None])).sum((1, 2))
        return found

    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(rating[:, None, :] - rating[:, :, None]))
        gradient = own - (games * chance).sum(2)
        curve = -games * chance * (1 - chance)
        diagonal = np.arange(size)
        curve[:, diagonal, diagonal] = 0
        curve[:, diagonal, diagonal] = -curve.sum(2)
        curve += 1.0 / size  # the one direction that votes do not fix: all ratings together
        step = np.linalg.solve(curve, gradient[..., None])[..., 0]
        step *= np.minimum(1, 5 / np.maximum(np.abs(step).max(1, keepdims=True), 1e-300))
        if np.abs(step).max() > 0.5:  # far away a step may overshoot: it is halved until it gains
            before = loss(rating)
            for _ in range(30):
                worse = loss(rating + step) > before + 1e-10 * np.abs(before)
                if not worse.any():
                    break
                step[worse] /= 2
        rating = rating + step
        if np.abs(step).max() < _TOLERANCE * max(1.0, float(np.abs(rating).max())):
            break
    found: Floats = rating - rating.mean(1, keepdims=True)
    return found


def _pair_matrix(values: Floats) -> Floats:
    """The Laplacian of symmetric weights [models, models]."""
    both = values + values.T
    np.fill_diagonal(both, 0)
    return np.diag(both.sum(1)) - both


def sandwich(table: Table, ratings: Ratings, level: float = 0.95) -> Ratings:
    """Intervals by the sandwich estimator H^-1 S H^-1 (Huber, 1967), which holds where the model is not quite true."""
    rating = ratings.rating
    chance = 1 / (1 + np.exp(rating[None, :] - rating[:, None]))
    curve = _pair_matrix(table.counts.sum(2) * chance * (1 - chance))
    off = np.array(OUTCOMES)[None, None, :] - chance[..., None]
    spread = _pair_matrix((table.counts * off**2).sum(2))
    inverse = np.linalg.pinv(curve, hermitian=True)
    covariance = inverse @ spread @ inverse
    half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(np.diag(covariance))
    return Ratings(ratings.names, rating, covariance, rating - half, rating + half, ratings.style, ratings.notes)


def bootstrap(
    table: Table, ratings: Ratings, *, draws: int = 100, level: float = 0.95, seed: int = 0, prior: float = 0.0
) -> Ratings:
    """Percentile intervals over resampled votes. Draws in which a model only wins or only loses get half a tied vote a pair."""
    if draws < 2 or table.votes != int(table.votes):
        raise ConfigError(f"{draws} draws of {table.votes:g} votes; expected two draws or more, and whole votes")
    generator = np.random.default_rng(seed)
    flat = table.counts.reshape(-1)
    drawn = generator.multinomial(int(table.votes), flat / flat.sum(), draws).astype(np.float64)
    counts = drawn.reshape(draws, *table.counts.shape)
    wins = counts[..., 0] + 0.5 * counts[..., 1]
    wins = wins + (counts[..., 2] + 0.5 * counts[..., 1]).transpose(0, 2, 1)
    floor = np.array([prior if prior or len(unconnected(one)) == 1 else 0.5 for one in wins])
    wins += floor[:, None, None] / 2 * (1 - np.eye(len(table.names)))
    found = newton(wins, np.broadcast_to(ratings.rating, (draws, len(table.names))).copy())
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Ratings(ratings.names, ratings.rating, np.cov(found.T), low, high, ratings.style, ratings.notes)


def style_control(
    names: Sequence[str], first: NDArray[np.int64], second: NDArray[np.int64], outcome: NDArray[np.int64],
    features: dict[str, Floats], *, level: float = 0.95, ridge: float = 0.0,
) -> Ratings:  # fmt: skip
    """Bradley-Terry with covariates of each vote, the first reply's style less the second's, each scaled to mean 0 and deviation 1.

    What voters like about length or formatting goes into `style` (logits a standard deviation) and out of the ratings.
    """
    size, votes = len(names), len(first)
    table = Table.of(names, first, second, outcome)
    start = bradley_terry(table)
    columns = []
    for name, values in features.items():
        if values.shape != (votes,) or not np.isfinite(values).all():
            raise ConfigError(f"style {name}: expected a finite number for each of {votes:,} votes")
        deviation = values.std()
        if deviation == 0:
            raise ConfigError(f"style {name}: the same for every vote; leave it out")
        columns.append((values - values.mean()) / deviation)
    x = np.stack(columns, 1)
    won = np.array(OUTCOMES)[outcome]
    rating, style = start.rating.copy(), np.zeros(len(features))
    pair = first * size + second
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(rating[second] - rating[first] - x @ style))
        error, weight = won - chance, chance * (1 - chance)
        gradient = np.concatenate((
            np.bincount(first, error, size) - np.bincount(second, error, size), x.T @ error - ridge * votes * style,
        ))  # fmt: skip
        curve = _curve(pair, first, second, x, weight, size)
        curve[size:, size:] += ridge * votes * np.eye(len(style))
        curve[:size, :size] += 1.0 / size
        step = np.linalg.solve(curve, gradient)
        step *= min(1.0, 5 / max(float(np.abs(step).max()), 1e-300))
        rating, style = rating + step[:size], style + step[size:]
        if np.abs(step).max() < 1e-10:
            break
    curve[:size, :size] -= 1.0 / size
    inverse = np.linalg.pinv(curve, hermitian=True)
    covariance = (inverse @ _curve(pair, first, second, x, error**2, size) @ inverse)[:size, :size]
    half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(np.diag(covariance))
    rating = rating - rating.mean()
    return Ratings(
        tuple(names), rating, covariance, rating - half, rating + half, dict(zip(features, style.tolist(), strict=True))
    )  # fmt: skip


def _curve(
    pair: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64], x: Floats, weight: Floats, size: int
) -> Floats:
    """sum of weight z z^T over votes, z = e_first - e_second with the covariates below."""
    ratings = _pair_matrix(np.bincount(pair, weight, size * size).astype(np.float64).reshape(size, size))
    weighted = x * weight[:, None]
    cross = np.stack(
        [np.bincount(first, column, size) - np.bincount(second, column, size) for column in weighted.T], axis=1
    )  # fmt: skip
    return np.block([[ratings, cross], [cross.T, x.T @ weighted]])


def elo(
    names: Sequence[str],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    outcome: NDArray[np.int64],
    *,
    k: float = 4.0,
) -> Ratings:
    """Elo's running update in the order of the votes, `k` points a vote, starting level; as logits like the others."""
    rating, unit = [0.0] * len(names), math.log(10) / 400
    for a, b, won in zip(first.tolist(), second.tolist(), np.array(OUTCOMES)[outcome].tolist(), strict=True):
        change = k * unit * (won - 1 / (1 + math.exp(rating[b] - rating[a])))
        rating[a] += change
        rating[b] -= change
    return Ratings(tuple(names), np.array(rating))


def prediction(table: Table, *, part: float = 0.2, seed: int = 0, prior: float = 0.01) -> dict[str, float]:
    """How well ratings of most votes predict the rest: mean log loss and accuracy (ties apart), beside knowing nothing."""
    generator = np.random.default_rng(seed)
    held = generator.binomial(table.counts.astype(np.int64), part).astype(np.float64)
    known = bradley_terry(Table(table.names, table.counts - held), prior=prior)
    chance = known.win_rates()[..., None]
    won = np.array(OUTCOMES)
    loss = -(won * np.log(chance) + (1 - won) * np.log1p(-chance))
    decided = held[..., [0, 2]]
    right = np.where(chance > 0.5, decided[..., :1], decided[..., 1:]).sum()
    total = max(held.sum(), 1.0)
    return {
        "votes": float(held.sum()),
        "log_loss": float((held * loss).sum() / total),
        "log_loss_of_a_coin": math.log(2),
        "accuracy": float(right / max(decided.sum(), 1.0)),
    }
