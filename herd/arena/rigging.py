"""How easily a ranking moves, and whose votes do not fit.

A few hundred votes move a rank (Min et al., arXiv 2501.17858), and dropping 0.003% of the votes flips a first place (Huang et al., arXiv
2508.11847): so the report says how many it takes, and voters who push one model are found by what they do, not by who they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from herd.arena.rank import Floats, Ratings, Table, bradley_terry, newton, unconnected
from herd.errors import ConfigError


@dataclass(frozen=True)
class Flip:
    """Two neighbours of a ranking: how many votes between them, added or dropped, change their order. None: no number of them does."""

    above: str
    below: str
    gap: float  # logits
    added: int | None
    dropped: int | None


def flips(table: Table, ratings: Ratings, *, limit: int = 100_000) -> list[Flip]:
    """For each two neighbours the least votes for the lower one against the upper one that change their order, and the least votes
    that, dropped, do: those against the lower or for the upper one that weigh most. Both are computed, not estimated.
    """
    order = ratings.order()
    wins = table.wins()
    found = []
    for upper, lower in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        found.append(
            Flip(
                table.names[upper], table.names[lower], float(ratings.rating[upper] - ratings.rating[lower]),
                _least(partial(_added, wins, ratings.rating, upper, lower), limit),
                _dropped(table, ratings, upper, lower),
            )
        )  # fmt: skip
    return found


def _added(wins: Floats, start: Floats, upper: int, lower: int, count: int) -> bool:
    changed = wins.copy()
    changed[lower, upper] += count
    return _flipped(changed, start, upper, lower)


def _flipped(wins: Floats, start: Floats, upper: int, lower: int) -> bool:
    rating = newton(wins[None], start[None])[0]
    return bool(rating[lower] > rating[upper])


def _least(ask: Callable[[int], bool], limit: int) -> int | None:
    """The least whole number at which a monotone question becomes true."""
    high = 1
    while not ask(high):
        high *= 2
        if high > limit:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ask(middle) else (middle, high)
    return high


def _dropped(table: Table, ratings: Ratings, upper: int, lower: int) -> int | None:
    """Votes that change the order when dropped, the most influential first (each kind of vote together)."""
    rating = ratings.rating
    size = len(rating)
    chance = 1 / (1 + np.exp(rating[None, :] - rating[:, None]))
    games = table.counts.sum(2) + table.counts.sum(2).T
    weight = games * chance * (1 - chance)
    curve = np.diag(weight.sum(1)) - weight + 1.0 / size
    toward = np.zeros(size)
    toward[upper], toward[lower] = 1, -1
    pull = np.linalg.solve(curve, toward)  # what a unit of gradient at each model does to the gap
    off = np.array([1.0, 0.5, 0.0])[None, None, :] - chance[..., None]
    influence = off * (pull[:, None] - pull[None, :])[..., None]  # of one vote of each kind on the gap
    kinds = np.argwhere((influence > 0) & (table.counts > 0))
    strength = influence[tuple(kinds.T)]
    kinds = kinds[np.argsort(-strength)]
    held = table.counts[tuple(kinds.T)]
    total = np.cumsum(held)

    def without(count: int) -> bool:
        counts = table.counts.copy()
        taken = np.clip(count - (total - held), 0, held)
        counts[tuple(kinds.T)] -= taken
        wins = Table(table.names, counts).wins()
        if len(unconnected(wins)) > 1:  # a model without a defeat, or without a win, left at the edge
            return True
        return _flipped(wins, rating, upper, lower)

    return _least(without, int(total[-1])) if len(total) else None


@dataclass(frozen=True)
class Suspect:
    """A voter whose votes on one model do not fit those of everybody else."""

    voter: str
    model: str
    votes: int  # of the voter, on that model
    won: float
    expected: float
    p_value: float


def suspects(
    names: list[str], first: NDArray[np.int64], second: NDArray[np.int64], outcome: NDArray[np.int64], voter: NDArray[np.str_],
    *, false_alarms: float = 0.01, rounds: int = 5, least: int = 5,
) -> list[Suspect]:  # fmt: skip
    """Voters who push or press one model. For each voter and model with at least `least` votes, how likely so many wins (or defeats)
    are at the ratings of everybody else; corrected for the models a voter has, flagged below `false_alarms` a voter.

    What they did is in the ratings, and hides them: ratings are computed anew without those found, `rounds` times, and all rounds but
    the last look ten times more loosely.
    """
    if not 0 < false_alarms < 1:
        raise ConfigError(f"false_alarms is {false_alarms}; expected a share between 0 and 1")
    people, who = np.unique(voter, return_inverse=True)
    flagged = np.zeros(len(people), bool)
    found: dict[int, Suspect] = {}
    for turn in range(rounds):
        keep = ~flagged[who]
        table = Table.of(names, first[keep], second[keep], outcome[keep])
        rating = bradley_terry(table, prior=0.1).rating
        below = false_alarms if turn == rounds - 1 else min(0.5, 10 * false_alarms)
        found = _misfits(names, rating, first, second, outcome, who, people, below, least)
        flagged = np.zeros(len(people), bool)
        flagged[list(found)] = True
    return sorted(found.values(), key=lambda suspect: suspect.p_value)


def _misfits(
    names: list[str], rating: Floats, first: NDArray[np.int64], second: NDArray[np.int64], outcome: NDArray[np.int64],
    who: NDArray[np.int64], people: NDArray[np.str_], false_alarms: float, least: int,
) -> dict[int, Suspect]:  # fmt: skip
    won = np.array([1.0, 0.5, 0.0])[outcome]
    chance = 1 / (1 + np.exp(rating[second] - rating[first]))
    # each vote seen from both of its models
    person, model = np.concatenate((who, who)), np.concatenate((first, second))
    wins, expected = np.concatenate((won, 1 - won)), np.concatenate((chance, 1 - chance))
    key, group = np.unique(person * len(names) + model, return_inverse=True)
    count = np.bincount(group)
    many = count >= least
    models_of = np.bincount(key[many] // len(names), minlength=len(people))
    order = np.argsort(group, kind="stable")
    edges = np.concatenate(([0], np.cumsum(count)))
    found: dict[int, Suspect] = {}
    for g in np.flatnonzero(many).tolist():
        rows = order[edges[g] : edges[g + 1]]
        someone, thing = divmod(int(key[g]), len(names))
        p = _tail(expected[rows], float(wins[rows].sum())) * max(1, int(models_of[someone]))
        if p < false_alarms and (someone not in found or p < found[someone].p_value):
            found[someone] = Suspect(
                str(people[someone]), names[thing], len(rows), float(wins[rows].sum()), float(expected[rows].sum()), min(p, 1.0)
            )  # fmt: skip
    return found


def _tail(chances: Floats, wins: float) -> float:
    """Two-sided: how likely as many wins, or as few, are; exact (Poisson-binomial) up to 200 votes, ties as halves down."""
    n = len(chances)
    if n > 200:
        spread = math.sqrt(float((chances * (1 - chances)).sum()))
        return 2 * (1 - NormalDist().cdf(abs(wins - float(chances.sum())) / max(spread, 1e-9)))
    exact = np.ones(1)
    for chance in chances.tolist():
        exact = np.convolve(exact, (1 - chance, chance))
    above, below = float(exact[math.ceil(wins) :].sum()), float(exact[: math.floor(wins) + 1].sum())
    return min(1.0, 2 * min(above, below))
