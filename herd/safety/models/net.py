"""A small classifier of text in numpy: hashed features, linear, beside filters over three words in a row of which each text's
largest response counts (Kim 2014, arXiv 1408.5882). Both parts' margins are added.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from herd.safety.models import words
from herd.safety.models.features import features

_HERE = Path(__file__).parent
_AROUND = 3  # words that a filter sees


class Piece(NamedTuple):
    """A piece of text as numbers: hashed features and their values, and rows of words."""

    indices: Any
    values: Any
    words: Any


def piece(text: str) -> Piece:
    """The numbers of a plain text."""
    return Piece(*features(text), words.load().find(text))


class Net:
    """`wide` (heads, SIZE), `filters` (3 x width, filters), `offsets` (filters,), `out` (filters + width, heads), `bias` (heads,)."""

    def __init__(
        self, wide: Any, scale: Any, filters: Any, offsets: Any, out: Any, bias: Any, names: Sequence[str]
    ) -> None:
        self.wide, self.scale, self.filters, self.offsets, self.out, self.bias = (
            wide,
            scale,
            filters,
            offsets,
            out,
            bias,
        )
        self.names = tuple(names)

    def margins(self, text: Piece) -> Any:
        """The log-odds of each head, (heads,) float32."""
        wide = (self.wide[:, text.indices].astype(np.float32) @ text.values) * self.scale
        seen = (
            words.load().vectors[text.words]
            if len(text.words)
            else np.zeros((1, self.filters.shape[0] // _AROUND), np.float32)
        )
        top = np.maximum(around(seen, np.array([0])) @ self.filters + self.offsets, 0).max(0)
        return wide + np.concatenate([top, seen.mean(0)]) @ self.out + self.bias

    def save(self, path: Path) -> None:
        """Write the weights, compressed."""
        np.savez_compressed(
            path, wide=self.wide, scale=self.scale, filters=self.filters.astype(np.float16), offsets=self.offsets,
            out=self.out, bias=self.bias, names=np.array(self.names),
        )  # fmt: skip


@lru_cache(maxsize=4)
def load(name: str) -> Net:
    """An embedded classifier by name."""
    with np.load(_HERE / f"{name}.npz") as file:
        parts = {k: file[k] for k in ("wide", "scale", "filters", "offsets", "out", "bias")}
        parts["filters"] = parts["filters"].astype(np.float32)
        return Net(**parts, names=[str(n) for n in file["names"]])


def around(vectors: Any, starts: Any) -> Any:
    """Each word with the one before and the one after it, (words, 3 x width); texts begin at `starts`."""
    before, after = np.roll(vectors, 1, 0), np.roll(vectors, -1, 0)
    before[starts], after[np.append(starts[1:], len(vectors)) - 1] = 0, 0
    return np.concatenate([before, vectors, after], 1)
