"""Words as vectors for the embedded classifiers, alike for words that mean alike in any of some hundred languages.

`words.npz` holds a digest and a vector of four-bit numbers for each of its words, not the words. How it was made: vectors.py.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_HERE = Path(__file__).parent
_MOST = 400  # words of a piece of text
WORD = re.compile(r"[^\s\d!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u205e\u0964\u0965\u060c\u061b\u061f\u3000-\u3020\uff01-\uff0f\uff1a-\uff20]+")  # fmt: skip
UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_LONGEST = 8  # characters of a word where none are spaced


class Words:
    """`vectors` (words + 1, width) float32, of which row 0 is zero, and the row of each word by its digest."""

    def __init__(self, digests: Any, codes: Any, scales: Any) -> None:
        low, high = (codes & 15).astype(np.float32), (codes >> 4).astype(np.float32)
        vectors = (np.stack([low, high], 2).reshape(len(codes), -1) - 8) * scales
        self.vectors = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors.astype(np.float32)])
        self.rows: dict[int, int] = dict(zip(digests.tolist(), range(1, len(digests) + 1), strict=True))

    def find(self, text: str) -> Any:
        """The rows of a plain text's words in order, (n,) int64; words that are not known are looked for by their beginning."""
        found: list[int] = []
        for match in WORD.finditer(text):
            word = match[0]
            row = self._row(word)
            if row:
                found.append(row)
            elif UNSPACED.match(word):
                found += self._inside(word)
            else:
                found.append(
                    next(
                        filter(None, (self._row(word[:n]) for n in range(len(word) - 1, max(2, len(word) // 2), -1))), 0
                    )
                )
            if len(found) >= _MOST:
                break
        return np.array(found[:_MOST], np.int64)

    def _row(self, word: str) -> int:
        return self.rows.get(digest(word), 0)

    def _inside(self, text: str) -> list[int]:
        """Longest words first, from left to right."""
        found: list[int] = []
        at = 0
        while at < len(text) and len(found) < _MOST:
            for length in range(min(_LONGEST, len(text) - at), 0, -1):
                row = self._row(text[at : at + length])
                if row:
                    found.append(row)
                    break
            at += length
        return found


def digest(word: str) -> int:
    """What stands for a word in the file."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def pack(words: Sequence[str], vectors: Any, path: Path) -> None:
    """Write vectors (words, width) as four-bit numbers, one scale a column; of words with one digest the first stays."""
    digests, first = np.unique(np.array([digest(w) for w in words], np.uint32), return_index=True)
    vectors = vectors[first]
    scales = np.std(vectors, 0) * 2.6 / 7.5
    codes = np.clip(np.rint(vectors / scales) + 8, 0, 15).astype(np.uint8)
    np.savez_compressed(
        path, digests=digests, codes=codes[:, ::2] | (codes[:, 1::2] << 4), scales=scales.astype(np.float32)
    )


@lru_cache(maxsize=1)
def load() -> Words:
    """The words that come with herd."""
    with np.load(_HERE / "words.npz") as file:
        return Words(file["digests"], file["codes"], file["scales"])
