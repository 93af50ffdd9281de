"""Which mix of sources trains best: a law fitted on small runs, and the mix that it predicts the least loss for.

For each validation set, with r_j the share of source j and D the tokens trained on:

    loss(r, D) = c + exp(sum_j t_j r_j) (D / D0)^-b

the exponential law of data mixtures (arXiv 2403.16952) times a power of the tokens, as scaling laws have them (arXiv 2203.15556);
D0 is the runs' geometric mean. With runs of one length b is 0, and the law holds for that length alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from herd.errors import ConfigError

Floats = NDArray[np.float64]
_ROUNDS = 200


@dataclass(frozen=True)
class Small:
    """A small run: the shares of its sources, tokens trained on, and the loss of each validation set at its end."""

    shares: Mapping[str, float]
    tokens: float
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Law:
    """One validation set's law. `missed` is the mean error, as a share of the loss, of each run predicted from the others."""

    sources: tuple[str, ...]
    constant: float
    effects: tuple[float, ...]
    exponent: float
    tokens: float
    missed: float

    def loss(self, shares: Floats, tokens: float) -> float:
        """The loss that a mix is predicted to end at."""
        return self.constant + self._above(shares, tokens)

    def slope(self, shares: Floats, tokens: float) -> Floats:
        """How the loss changes with each share."""
        return self._above(shares, tokens) * np.array(self.effects)

    def _above(self, shares: Floats, tokens: float) -> float:
        return math.exp(float(np.dot(self.effects, shares)) - self.exponent * math.log(tokens / self.tokens))


def fit(runs: Sequence[Small]) -> dict[str, Law]:
    """The law of each validation set; ConfigError when the runs are too few or too alike to tell."""
    sources = tuple(sorted({name for run in runs for name in run.shares}))
    targets = sorted(set.intersection(*(set(run.losses) for run in runs))) if runs else []
    if not targets:
        raise ConfigError("the runs have no validation set in common; give them the same data.validation")
    shares = np.array([[run.shares.get(name, 0.0) for name in sources] for run in runs])
    if (shares < 0).any() or not shares.sum(axis=1).all():
        raise ConfigError("a run has shares below 0, or none above")
    shares = shares / shares.sum(axis=1, keepdims=True)
    tokens = np.array([run.tokens for run in runs])
    if not (tokens > 0).all():
        raise ConfigError("a run has trained on no tokens")
    middle = float(np.exp(np.log(tokens).mean()))
    known = shares
    if len(set(tokens)) > 1:
        known = np.hstack([shares, -np.log(tokens / middle)[:, None]])
    needed = known.shape[1] + 2
    if len(runs) < needed or np.linalg.matrix_rank(known) < known.shape[1]:
        raise ConfigError(
            f"{len(runs)} runs of {len(sources)} sources: expected {needed} or more, with mixes that differ in every source"
        )
    laws = {}
    for name in targets:
        losses = np.array([run.losses[name] for run in runs])
        if not np.isfinite(losses).all() or losses.min() <= 0:
            raise ConfigError(f"{name}: a run's loss is no number above 0")
        found = _fitted(known, losses)
        missed = [
            abs(_value(_fitted(np.delete(known, i, 0), np.delete(losses, i)), known[i]) / losses[i] - 1)
            for i in range(len(runs))
        ]
        exponent = float(found[1 + len(sources)]) if known.shape[1] > len(sources) else 0.0
        effects = tuple(map(float, found[1 : 1 + len(sources)]))
        laws[name] = Law(sources, float(found[0]), effects, exponent, middle, float(np.mean(missed)))
    return laws


def _value(law: Floats, known: Floats) -> float:
    return float(law[0] + math.exp(min(50.0, float(known @ law[1:]))))


def _fitted(known: Floats, losses: Floats) -> Floats:
    """(c, effects) of the least squared error. For a given c the rest is linear in logarithms: the best of many starts Levenberg's
    and Marquardt's steps.
    """
    least = float(losses.min())
    starts = [least * (1 - gap) for gap in (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 0.95)]
    made = [np.append(c, np.linalg.lstsq(known, np.log(losses - c), rcond=None)[0]) for c in starts]
    return min((_descended(known, losses, one) for one in made), key=lambda law: _error(known, losses, law))


def _error(known: Floats, losses: Floats, law: Floats) -> float:
    rest = law[0] + np.exp(np.minimum(known @ law[1:], 50.0)) - losses
    return float(rest @ rest)


def _descended(known: Floats, losses: Floats, law: Floats) -> Floats:
    damping, error = 1e-3, _error(known, losses, law)
    for _ in range(_ROUNDS):
        above = np.exp(np.minimum(known @ law[1:], 50.0))
        slopes = np.hstack([np.ones((len(losses), 1)), above[:, None] * known])
        rest = law[0] + above - losses
        square = slopes.T @ slopes
        step = np.linalg.lstsq(square + damping * np.diag(np.diag(square) + 1e-12), -slopes.T @ rest, rcond=None)[0]
        better = law + step
        if better[0] >= 0 and (found := _error(known, losses, better)) < error:
            done = error - found < 1e-15 * (1 + error)
            law, error, damping = better, found, max(damping / 5, 1e-12)
            if done:
                break
        else:
            damping *= 5
            if damping > 1e12:
                break
    return law


def best(laws: Mapping[str, Law], tokens: float, wanted: Mapping[str, float] | None = None) -> dict[str, float]:
    """The shares of the least predicted loss, the mean over validation sets or weighted by `wanted`. The sum of exponentials is
    convex, so that the descent (exponentiated gradients, on the simplex) ends at the least of all.
    """
    weights = dict.fromkeys(laws, 1.0) if wanted is None else dict(wanted)
    if unknown := set(weights) - set(laws):
        raise ConfigError(f"no validation set {', '.join(sorted(unknown))}; the runs have {', '.join(laws)}")
    sources = next(iter(laws.values())).sources
    shares = np.full(len(sources), 1 / len(sources))

    def loss(at: Floats) -> float:
        return sum(weight * laws[name].loss(at, tokens) for name, weight in weights.items())

    pace, now = 1.0, loss(shares)
    for _ in range(5000):
        slope = sum(weight * laws[name].slope(shares, tokens) for name, weight in weights.items())
        moved = shares * np.exp(-pace * (slope - np.min(slope)))
        moved /= moved.sum()
        if (then := loss(moved)) <= now:
            if np.abs(moved - shares).max() < 1e-9:
                break
            shares, now, pace = moved, then, pace * 1.5
        else:
            pace /= 2
            if pace < 1e-9:
                break
    return {name: float(share) for name, share in zip(sources, shares, strict=True)}


def designs(sources: Sequence[str], count: int, seed: int = 0) -> list[dict[str, float]]:
    """Mixes for small runs: all alike, each source at three quarters, then draws from the whole simplex; every share is above 0."""
    many = len(sources)
    if many < 2:
        raise ConfigError("a mix needs two sources or more")
    if count < many + 4:
        raise ConfigError(f"{count} mixes of {many} sources; expected {many + 4} or more, for the law to be told")
    rows = [np.full(many, 1 / many), *(np.full(many, 0.25 / (many - 1)) + np.eye(many)[i] * (0.75 - 0.25 / (many - 1)) for i in range(many))]  # fmt: skip
    random = np.random.default_rng(seed)
    while len(rows) < count:
        rows.append(0.98 * random.dirichlet(np.ones(many)) + 0.02 / many)
    return [{name: round(float(share), 6) for name, share in zip(sources, row, strict=True)} for row in rows]
