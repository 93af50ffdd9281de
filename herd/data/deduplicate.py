"""Finding what is there twice: equal texts and addresses, near-equal texts (MinHash), lines that stand in many documents.

Keys of 64 bits go to files by their value; a file at a time is sorted in memory. So the memory is fixed, whatever lies on disk,
but for eight bytes a document (its group) and the hashes of repeated lines. What keys say is checked on the texts themselves.
"""

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from herd.data.filters import UNSPACED

BANDS, ROWS = 20, 6
"""Two texts of Jaccard similarity s share a band's key with probability 1 - (1 - s**ROWS)**BANDS: 0.998 at 0.8."""
WORDS, CHARACTERS = 5, 12
"""Length of a shingle, where words are parted by spaces and where they are not."""
_U64 = np.uint64
_SEED = np.random.Generator(np.random.PCG64(20240731))
_A = _SEED.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * _U64(2) + _U64(1)
_B = _SEED.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)


def mix_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def word_codes(text: str, language: str) -> NDArray[np.uint64]:
    """A number for each word, or each character in languages without spaces; of case-folded letters and digits."""
    plain = "".join(c if c.isalnum() or ord(c) > 0x2FF else " " for c in text.casefold())
    if language in UNSPACED:
        return np.frombuffer("".join(plain.split()).encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    return np.fromiter((zlib.crc32(w.encode("utf-8", "replace")) for w in plain.split()), np.uint64)


def shingles(text: str, language: str) -> NDArray[np.uint64]:
    """Sorted hashes of a text's shingles: 5 words, or 12 characters in languages without spaces; of case-folded letters and digits.

    A text shorter than a shingle is one; a text without letters and digits gives none.
    """
    codes = word_codes(text, language)
    if not len(codes):
        return codes
    length = CHARACTERS if language in UNSPACED else WORDS
    length = min(length, len(codes))
    mixed = mix_bits(codes + _U64(0x9E3779B97F4A7C15))
    count = len(mixed) - length + 1
    total = np.zeros(count, np.uint64)
    for i in range(length):
        total = total * _U64(0x100000001B3) + mixed[i : i + count]
    return np.unique(mix_bits(total))


def band_keys(found: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys uint64[BANDS] of sorted shingle hashes: two texts that share one are candidates. Empty for no shingles."""
    if not len(found):
        return found
    least = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(found), 1024):
        piece = found[start : start + 1024, None] * _A + _B
        least = np.minimum(least, (piece ^ (piece >> _U64(32))).min(axis=0))
    keys = np.arange(BANDS, dtype=np.uint64)
    for row in least.reshape(BANDS, ROWS).T:
        keys = mix_bits(keys ^ row) + row
    return keys


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Shared shingles over all shingles of two sorted sets."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def text_key(text: str) -> int:
    """64 bits of a text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_TOGETHER = 1 << 16
"""Pairs that are put into files together."""


class Buckets:
    """Pairs (key, index) in files by key; `groups` gives the indices that share a key. `memory`, in bytes, is what sorting a file
    may take if no more than `expected` pairs come.
    """

    def __init__(self, folder: Path, expected: int, memory: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        count = max(1, -(-expected * 16 * 5 // max(memory, 1 << 20)))
        self._files = [(folder / f"{i:05d}.keys").open("wb+") for i in range(min(count, 500))]
        self._waiting: list[NDArray[np.uint64]] = []
        self._count = 0

    def add(self, keys: NDArray[np.uint64], index: int) -> None:
        """Put an index under each of its keys."""
        rows = np.empty((len(keys), 2), np.uint64)
        rows[:, 0], rows[:, 1] = keys, index
        self._waiting.append(rows)
        self._count += len(rows)
        if self._count >= _TOGETHER:
            self._put()

    def _put(self) -> None:
        rows = np.concatenate([np.empty((0, 2), np.uint64), *self._waiting])
        self._waiting, self._count = [], 0
        places = rows[:, 0] % _U64(len(self._files))
        order = np.argsort(places, kind="stable")
        edges = np.searchsorted(places[order], np.arange(len(self._files) + 1, dtype=np.uint64))
        for file, first, last in zip(self._files, edges[:-1], edges[1:], strict=True):
            file.write(rows[order[first:last]].tobytes())

    def groups(self, least: int = 2) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """(key, indices in rising order) of each key that `least` or more have; a key's order depends on nothing but the keys."""
        self._put()
        for file in self._files:
            file.seek(0)
            rows = np.frombuffer(file.read(), np.uint64).reshape(-1, 2)
            file.close()
            Path(file.name).unlink()
            order = np.lexsort((rows[:, 1], rows[:, 0]))
            keys, indices = rows[order, 0], rows[order, 1]
            edges = (
                np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]]))
                if len(keys)
                else np.zeros(1, int)
            )
            for first, last in itertools.pairwise(map(int, edges)):
                if last - first >= least:
                    yield int(keys[first]), indices[first:last]


def same(groups: Iterable[tuple[int, NDArray[np.uint64]]], what: Callable[[int], str]) -> dict[int, int]:
    """Each index whose string was there before -> the first that has it."""
    found: dict[int, int] = {}
    for _, indices in groups:
        first: dict[str, int] = {}
        for index in map(int, indices):
            before = first.setdefault(what(index), index)
            if before != index:
                found[index] = before
    return found


REPRESENTATIVES = 8
"""Unlike texts of one bucket that each further one is compared with."""


def similar(
    groups: Iterable[tuple[int, NDArray[np.uint64]]],
    count: int,
    sets: Callable[[int], NDArray[np.uint64]],
    least: float,
) -> dict[int, tuple[int, float]]:
    """Each index that is like an earlier one -> (that one, their Jaccard similarity, at least `least`).

    Likeness is carried on: of texts that are alike in a chain the first stays.
    """
    cached = lru_cache(maxsize=64)(sets)
    parents = np.arange(count)
    said: dict[int, tuple[int, float]] = {}

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = int(parents[index])
        return index

    for _, indices in groups:
        apart: list[int] = []
        for index in map(int, indices):
            for other in apart:
                one, two = sorted((root(index), root(other)))
                if one == two:
                    break
                value = jaccard(cached(index), cached(other))
                if value >= least:
                    parents[two] = one
                    said[two] = (other if two == root(index) and other < index else one, value)
                    break
            else:
                if len(apart) < REPRESENTATIVES:
                    apart.append(index)
    return {
        index: (root(index), said[index][1] if index in said else least)
        for index in range(count)
        if root(index) != index
    }


def frequent_lines(
    documents: Iterable[str], folder: Path, memory: int, most: int = 6, expected: int = 1 << 20
) -> frozenset[int]:
    """Keys of the lines that stand over `most` times in these documents (a bucket of at most 30 million, as the paper has it), of `expected` lines."""
    buckets = Buckets(folder, expected, memory)
    for text in documents:
        keys = np.array([text_key(line) for line, may_go in _lines(text) if may_go], np.uint64)
        buckets.add(keys, 0)
    return frozenset(key for key, _ in buckets.groups(most + 1))


_CODE = re.compile(r"^(?:\s|>>>|\$ |#!|[-+]{3})|[;{}=:\\\])]$|[(\[]['\"]|==|\w\(", re.MULTILINE)


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line and whether it may go for being frequent: not in a block (between empty lines) that holds code, where
    every line counts, and not with under three letters.
    """
    for number, block in enumerate(text.split("\n\n")):
        if number:
            yield "", False
        code = "\n" in block and _CODE.search(block) is not None
        for line in block.split("\n"):
            yield line, not code and not line[:1].isspace() and sum(map(str.isalpha, line)) >= 3


def without(text: str, lines: frozenset[int]) -> str:
    """The text without its frequent lines."""
    if not lines:
        return text
    return "\n".join(line for line, may_go in _lines(text) if not may_go or text_key(line) not in lines)
