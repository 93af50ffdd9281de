"""Samples in an order that is a pure function of seed and place, packed into rows of one length with document edges.

Every process packs the same rows and computes its own share of them, so that other layouts see the same samples in the same
order. The state is a few numbers: with it the stream goes on exactly where it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from herd.errors import ConfigError
from herd.model.attention import Documents
from herd.train.samples import Corpus

WINDOW = 64
"""Samples among which the packer looks for one that fills a row."""


class Piece(NamedTuple):
    """Positions `start` to `stop` of a sample; a whole one starts at 0."""

    source: int
    sample: int
    start: int
    stop: int


Row = list[Piece]


@dataclass(frozen=True)
class Batch:
    """Packed rows: tokens, targets [rows, length] (int64) and weights [rows, length] (float32, 0 for what does not count).

    `documents` are their lengths, the padding at a row's end among them; `owner` [documents] numbers each document's sample
    in the batch (-1 for padding), a sample's documents in the order of the source: chosen before rejected, best before worst.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    documents: Documents
    owner: Tensor
    pieces: tuple[Piece, ...]
    together: Callable[[Tensor], Tensor] | None = None  # adds over the processes that share these rows

    @property
    def samples(self) -> int:
        """How many samples the batch holds."""
        return len(self.pieces)

    def document_of(self) -> Tensor:
        """The number of each token's document, [tokens that are here]."""
        return self.documents.numbers()

    def by_document(self, each: Tensor) -> Tensor:
        """Values [tokens that are here] added for each document, over all processes that share the rows: [documents]."""
        found = torch.zeros(len(self.owner), device=each.device, dtype=each.dtype).index_add(
            0, self.document_of(), each
        )
        return found if self.together is None else self.together(found)


class Stream(Protocol):
    """Where the rows of each step come from; it goes on where a state was taken."""

    @property
    def sources(self) -> Sequence[Corpus]:
        """Where the samples of the rows lie."""
        ...

    def rows(self, length: int, count: int) -> list[Row]:
        """The rows of the next step, about `count` of `length` positions."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on from here."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


class Packer:
    """An endless stream of rows from weighted sources."""

    def __init__(self, sources: Sequence[Corpus], seed: int) -> None:
        if not sources:
            raise ConfigError("data.sources is empty; name at least one")
        self.sources, self._seed = sources, seed
        self._drawn = [0] * len(sources)  # samples taken of each source
        self._given = [0.0] * len(sources)  # positions over the source's weight
        self._pending: list[Piece] = []

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on from here."""
        return {"drawn": list(self._drawn), "given": list(self._given), "pending": [list(p) for p in self._pending]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._drawn, self._given = list(state["drawn"]), list(state["given"])
        self._pending = [Piece(*p) for p in state["pending"]]

    def epochs(self) -> list[float]:
        """How often each source has been seen."""
        return [drawn / len(source) for drawn, source in zip(self._drawn, self.sources, strict=True)]

    def rows(self, length: int, count: int) -> list[Row]:
        """The next `count` rows."""
        return [self.row(length) for _ in range(count)]

    def row(self, length: int) -> Row:
        """The next row of at most `length` positions: samples in their order, and where one does not fit the largest that does."""
        row: Row = []
        room = length
        while room:
            while len(self._pending) < WINDOW:
                self._draw()
            i = self._choose(room, first=not row, length=length)
            if i is None:
                break
            piece = self._pending.pop(i)
            if piece.stop - piece.start > room:
                cut = piece.start + room
                self._pending.insert(0, piece._replace(start=cut))
                piece = piece._replace(stop=cut)
            row.append(piece)
            room -= piece.stop - piece.start
        return row

    def _choose(self, room: int, *, first: bool, length: int) -> int | None:
        sizes = [piece.stop - piece.start for piece in self._pending]
        cuttable = [self.sources[piece.source].may_be_cut for piece in self._pending]
        if first:
            if sizes[0] > length and not cuttable[0]:
                piece = self._pending[0]
                name = self.sources[piece.source].names(piece.sample)
                raise ConfigError(f"{name}: {sizes[0]} tokens do not fit rows of {length}; make data.length larger")
            return 0
        if cuttable[0] or sizes[0] <= room:
            return 0
        fits = [i for i, size in enumerate(sizes) if size <= room]
        if fits:
            return max(fits, key=lambda i: (sizes[i], -i))
        return next((i for i, may in enumerate(cuttable) if may), None)

    def _draw(self) -> None:
        """Take a sample of the source that has given least for its weight."""
        i = min(range(len(self.sources)), key=lambda k: (self._given[k], k))
        source = self.sources[i]
        epoch, place = divmod(self._drawn[i], len(source))
        sample = int(order(self._seed, i, epoch, len(source))[place])
        self._drawn[i] += 1
        size = source.positions(sample)
        self._given[i] += max(size, 1) / source.weight
        if size:
            self._pending.append(Piece(i, sample, 0, size))


@lru_cache(maxsize=64)
def order(seed: int, source: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of a source's samples in an epoch, [count]."""
    return np.random.Generator(np.random.Philox([seed, source, epoch, 0])).permutation(count)


def collate(sources: Sequence[Corpus], rows: Sequence[Row], length: int) -> Batch:
    """Rows as tensors, padded to `length`."""
    tokens = np.zeros((len(rows), length), np.int64)
    targets = np.zeros((len(rows), length), np.int64)
    weights = np.zeros((len(rows), length), np.float32)
    lengths: list[int] = []
    owner: list[int] = []
    pieces: list[Piece] = []
    for r, row in enumerate(rows):
        at = 0
        for piece in row:
            source = sources[piece.source]
            first, last = source.groups[piece.sample], source.groups[piece.sample + 1]
            place = 0  # of the document within the sample
            for document in range(first, last):
                begin, end = source.offsets[document], source.offsets[document + 1]
                size = int(end - begin) - 1
                start, stop = max(piece.start - place, 0), min(piece.stop - place, size)
                place += size
                if stop <= start:
                    continue
                span = slice(at, at + stop - start)
                tokens[r, span] = source.ids[begin + start : begin + stop]
                targets[r, span] = source.ids[begin + start + 1 : begin + stop + 1]
                weights[r, span] = 1 if source.mask is None else source.mask[begin + start + 1 : begin + stop + 1]
                lengths.append(stop - start)
                owner.append(len(pieces))
                at = span.stop
            pieces.append(piece)
        if at < length:
            lengths.append(length - at)
            owner.append(-1)
    return Batch(
        torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(weights), Documents(tuple(lengths)),
        torch.tensor(owner), tuple(pieces),
    )  # fmt: skip
