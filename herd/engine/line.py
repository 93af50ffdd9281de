"""A line of sequences as a heap, so that a hundred thousand may wait: for their turn, or for their deadline."""

import heapq
from collections.abc import Iterator

from herd.engine.sequence import Sequence


class Line:
    """Who has the smallest key goes first. A sequence that is finished while it waits is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._gone = 0  # finished ones that still have a place

    def __len__(self) -> int:
        return len(self._heap) - self._gone

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for *_, sequence in self._heap if not sequence.finished)

    def push(self, key: float, sequence: Sequence) -> None:
        """Put one in line; equal keys go in the order of arrival."""
        heapq.heappush(self._heap, (key, sequence.arrival, sequence))

    def first(self) -> tuple[float, Sequence] | None:
        """The smallest key and whose it is; None when nobody waits."""
        while self._heap and self._heap[0][2].finished:
            heapq.heappop(self._heap)
            self._gone -= 1
        return (self._heap[0][0], self._heap[0][2]) if self._heap else None

    def pop(self) -> None:
        """Take out who is `first`."""
        heapq.heappop(self._heap)

    def leave(self) -> None:
        """One in line has finished. Places of the finished are given back when they are half of all."""
        self._gone += 1
        if self._gone > 32 and self._gone * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].finished]
            heapq.heapify(self._heap)
            self._gone = 0
