"""The training of the small classifiers in net.py: numpy, one thread, the same weights from the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from herd.safety.models import words
from herd.safety.models.features import SIZE
from herd.safety.models.net import Net, Piece, around

FILTERS = 96


@dataclass
class Recipe:
    """How a net is trained. A share of rows is shown without one of the two parts, so that each can stand alone."""

    rounds: int = 10
    batch: int = 256
    rate: float = 0.002
    wide_rate: float = 0.08
    decay: float = 1e-4
    wide_decay: float = 1e-6
    no_wide: float = 0.5
    no_deep: float = 0.1
    no_word: float = 0.15
    seed: int = 0
    say: Callable[[str], None] = field(default=lambda _: None)


class _Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) with decoupled decay, for one array that it changes in place."""

    def __init__(self, array: Any, decay: float) -> None:
        self.array, self.decay, self.step = array, decay, 0
        self.first, self.second = np.zeros_like(array), np.zeros_like(array)

    def move(self, slope: Any, rate: float) -> None:
        self.step += 1
        self.first += 0.1 * (slope - self.first)
        self.second += 0.01 * (slope * slope - self.second)
        ahead = (self.first / (1 - 0.9**self.step)) / (np.sqrt(self.second / (1 - 0.99**self.step)) + 1e-8)
        self.array -= rate * (ahead + self.decay * self.array)


def fit(
    rows: Sequence[Sequence[Piece]], labels: Any, weights: Any, names: Sequence[str], recipe: Recipe = Recipe()
) -> Net:
    """A net that predicts `labels` (rows, heads) of 0 and 1; a row is the pieces of a text, of which the worst counts for each head.

    `weights` (rows, heads) say how much a row counts for a head; 0 is "not known".
    """
    rng = np.random.default_rng(recipe.seed)
    labels, weights = np.asarray(labels, np.float32), np.asarray(weights, np.float32)
    weights = weights / np.maximum(weights.sum(0, keepdims=True), 1e-9) * len(rows)
    heads, width = labels.shape[1], words.load().vectors.shape[1]
    wide: Any = np.zeros((heads, SIZE), np.float32)
    grown: Any = np.full((heads, SIZE), 1e-6, np.float32)
    filters = rng.normal(0, (3 * width) ** -0.5, (3 * width, FILTERS)).astype(np.float32)
    offsets = np.zeros(FILTERS, np.float32)
    out = rng.normal(0, 0.05, (FILTERS + width, heads)).astype(np.float32)
    bias = np.zeros(heads, np.float32)
    adams = [_Adam(a, recipe.decay / recipe.rate) for a in (filters, offsets, out, bias)]
    steps, done = recipe.rounds * (-(-len(rows) // recipe.batch)), 0
    for turn in range(recipe.rounds):
        order, loss = rng.permutation(len(rows)), 0.0
        for begin in range(0, len(rows), recipe.batch):
            at = order[begin : begin + recipe.batch]
            pace = min(1.0, 1.5 * (1 - done / steps)) + 0.01
            done += 1
            batch = _Batch([rows[i] for i in at], rng, recipe)
            margin, keep = batch.forward(wide, filters, offsets, out, bias)
            best = np.maximum.reduceat(margin, batch.firsts)
            chance = 1 / (1 + np.exp(-best))
            error = (chance - labels[at]) * weights[at] / len(at)
            loss += float(
                (weights[at] * -np.log(np.maximum(np.where(labels[at] > 0.5, chance, 1 - chance), 1e-7))).mean()
            )
            each = np.where(margin == best[batch.owner], error[batch.owner], 0).astype(np.float32)
            for adam, slope in zip(adams, batch.backward(each, keep, filters, out), strict=True):
                adam.move(slope, recipe.rate * pace)
            for head in range(heads):
                slope = np.bincount(
                    batch.indices, batch.values * np.repeat(each[:, head] * batch.with_wide, batch.lengths), SIZE
                ).astype(np.float32)
                grown[head] += slope * slope
                wide[head] -= recipe.wide_rate * pace * (slope / np.sqrt(grown[head]) + recipe.wide_decay * wide[head])
        recipe.say(f"round {turn + 1} of {recipe.rounds}: loss {loss / (-(-len(rows) // recipe.batch)):.4f}")
    scale = np.maximum(np.quantile(np.abs(wide), 0.9999, axis=1), 1e-6).astype(np.float32) / 127
    small = np.clip(np.rint(wide / scale[:, None]), -127, 127).astype(np.int8)
    return Net(small, scale, filters.astype(np.float16).astype(np.float32), offsets, out, bias, names)


class _Batch:
    """Some rows at once: `owner` is the row of each piece, `firsts` the first piece of each row."""

    def __init__(self, rows: Sequence[Sequence[Piece]], rng: Any, recipe: Recipe) -> None:
        pieces = [p for row in rows for p in row]
        counts = np.array([len(row) for row in rows])
        self.owner = np.repeat(np.arange(len(rows)), counts)
        self.firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.lengths = np.array([max(len(p.indices), 1) for p in pieces])
        none, nothing = np.zeros(1, np.int64), np.zeros(1, np.float32)
        self.indices = np.concatenate([p.indices if len(p.indices) else none for p in pieces])
        self.values = np.concatenate([p.values if len(p.indices) else nothing for p in pieces])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.sizes = np.array([max(len(p.words), 1) for p in pieces])
        self.begins = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        seen = np.concatenate([p.words if len(p.words) else none for p in pieces])
        seen = np.where(rng.random(len(seen)) < recipe.no_word, 0, seen)
        self.vectors = words.load().vectors[seen]
        chance = rng.random(len(rows))[self.owner]
        self.with_wide = (chance >= recipe.no_wide).astype(np.float32)
        self.with_deep = (chance < 1 - recipe.no_deep).astype(np.float32)

    def forward(self, wide: Any, filters: Any, offsets: Any, out: Any, bias: Any) -> tuple[Any, Any]:
        """Margins (pieces, heads), and what the way back needs."""
        linear = np.stack([np.add.reduceat(self.values * w[self.indices], self.starts) for w in wide], 1)
        self.seen = around(self.vectors, self.begins)
        answers = np.maximum(self.seen @ filters + offsets, 0)
        top = np.maximum.reduceat(answers, self.begins)
        mean = np.add.reduceat(self.vectors, self.begins) / self.sizes[:, None]
        both = np.concatenate([top, mean], 1)
        return linear * self.with_wide[:, None] + (both @ out) * self.with_deep[:, None] + bias, (answers, top, both)

    def backward(self, each: Any, keep: Any, filters: Any, out: Any) -> tuple[Any, Any, Any, Any]:
        """Slopes of filters, offsets, out and bias."""
        answers, top, both = keep
        deep = each * self.with_deep[:, None]
        up = deep @ out[: filters.shape[1]].T
        # the words with the largest response of a piece share its slope: mostly one, more where words are not known
        shown = (answers == np.repeat(top, self.sizes, 0)) & (answers > 0)
        many = np.maximum(np.add.reduceat(shown.astype(np.float32), self.begins), 1)
        slope = np.where(shown, np.repeat(up / many, self.sizes, 0), 0).astype(np.float32)
        return self.seen.T @ slope, slope.sum(0), both.T @ deep, each.sum(0)
