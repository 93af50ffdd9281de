"""How much of questions stands in documents: overlap of 8-token-grams as the Llama 3 paper measures it (arXiv 2407.21783, section 5.1.4), and the
longest run of tokens that a question has in common with one document.

A token here is a word (letters and digits, in small letters; marks do not count) or one Chinese or Japanese character, so that the answer depends on no
tokenizer. Words and n-grams are 64-bit hashes, made and looked up by numpy over whole batches of documents.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from herd.errors import ConfigError

GRAM = 8
VERBATIM = 50  # tokens in a row that nobody takes for chance
_BATCH = 1 << 20
_RANDOM = np.random.default_rng(0x3E9D)
_VALUES = _RANDOM.integers(1, 1 << 63, 256, np.uint64)
_VALUES[[b for b in range(128) if not chr(b).isalnum()]] = 0
_FACTORS = _RANDOM.integers(1, 1 << 63, GRAM, np.uint64) | np.uint64(1)
_BASE = 0x9E3779B97F4A7C15
_INVERSE = np.uint64(pow(_BASE, -1, 1 << 64))

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def _powers(base: int, count: int) -> Hashes:
    return np.multiply.accumulate(np.concatenate((np.ones(1, np.uint64), np.full(count - 1, base, np.uint64))))


def tokens(data: bytes) -> tuple[Hashes, Numbers]:
    """Hashes of the tokens of UTF-8 text in small letters, and the byte at which each begins."""
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    values = _VALUES[raw]
    starts = np.empty(len(raw), bool)
    if raw.max() >= 0x80:
        alone = _beyond_ascii(raw, values)
        starts = alone.copy()
        starts[3:] |= alone[:-3]
    else:
        starts[:] = False
    within = values != 0
    starts[0] = True
    starts[1:] |= ~within[:-1]
    begin = np.flatnonzero(starts & within)
    sums = np.zeros(len(raw) + 1, np.uint64)
    np.cumsum(values * _powers(_BASE, len(raw)), out=sums[1:])
    ends = np.append(begin[1:], len(raw)) if len(begin) else begin
    found = (sums[ends] - sums[begin]) * _powers(int(_INVERSE), len(raw))[begin]
    found ^= found >> np.uint64(31)
    return found * np.uint64(_BASE), begin


def _beyond_ascii(raw: NDArray[np.uint8], values: Hashes) -> NDArray[np.bool_]:
    """Takes the marks of Unicode out of `values`; where characters stand that are tokens by themselves (Chinese and Japanese)."""
    after = np.append(raw[1:], np.uint8(0))
    lead2, lead3 = raw == 0xC2, (raw == 0xE2) | (raw == 0xEF) | ((raw == 0xE3) & (after == 0x80))
    for shift, lead in ((0, lead2 | lead3), (1, lead2 | lead3), (2, lead3)):
        values[shift:][lead[: len(raw) - shift]] = 0
    alone: NDArray[np.bool_] = (raw >= 0xE3) & (raw <= 0xE9) & ~lead3
    return alone


def grams(words: Hashes) -> Hashes:
    """Hashes of all runs of 8 tokens; as many as begin in `words`."""
    count = len(words) - GRAM + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    found = np.zeros(count, np.uint64)
    for shift, factor in enumerate(_FACTORS):
        found += words[shift : shift + count] * factor
    return found ^ (found >> np.uint64(29))


@dataclass(frozen=True)
class Match:
    """How much of a question was found: the share of its tokens in an 8-gram of the corpus, and the longest run within one document."""

    id: str
    tokens: int
    share: float
    longest: int

    @property
    def verbatim(self) -> bool:
        """50 tokens in a row, or all of a question that is shorter."""
        return self.longest >= min(VERBATIM, max(self.tokens, GRAM))


@dataclass
class Index:
    """N-grams of many questions, to be looked for in documents. `texts` are (task, id, text)."""

    texts: Sequence[tuple[str, str, str]]
    _spans: list[tuple[int, int]] = field(default_factory=list)  # each question's tokens among all

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("no questions to look for")
        words, pieces, owners, places, hashes = 0, [], [], [], []
        for number, (_, _, text) in enumerate(self.texts):
            own, _starts = tokens(text.lower().encode("utf-8", "replace"))
            self._spans.append((words, words + len(own)))
            hashes.append(own)
            made = grams(own)
            pieces.append(made)
            owners.append(np.full(len(made), number))
            places.append(np.arange(len(made)) + words)
            words += len(own)
        self._words, self._bounds = np.concatenate(hashes), np.array(self._spans)
        every, owner, place = np.concatenate(pieces), np.concatenate(owners), np.concatenate(places)
        kept = ~self._templates(every, owner)
        self._countable = self._covered(words, place[kept])
        order = np.argsort(every[kept], kind="stable")
        self._owner, self._place = owner[kept][order], place[kept][order]
        self._unique, self._first, self._count = np.unique(every[kept][order], return_index=True, return_counts=True)
        bits = max(16, int(len(self._unique) * 16).bit_length())
        self._shift = np.uint64(64 - bits)
        self._sieve = np.zeros(1 << bits, bool)
        self._sieve[(self._unique >> self._shift).astype(np.int64)] = True
        self._seen = np.zeros(len(self._unique), bool)
        self._longest = np.zeros(len(self.texts), np.int64)
        self._overlap = 2 * max(len(text) for _, _, text in self.texts)

    def _templates(self, every: Hashes, owner: Numbers) -> NDArray[np.bool_]:
        """Which n-grams stand in over half of a task's questions: the wording of a prompt, not of a question."""
        names = {task: number for number, task in enumerate(dict.fromkeys(task for task, _, _ in self.texts))}
        task_of = np.array([names[task] for task, _, _ in self.texts])
        size = np.bincount(task_of)
        # one hash for an n-gram in a question, then one for it in a task: how many questions of the task have it
        _, once = np.unique(every + (owner.astype(np.uint64) + np.uint64(1)) * np.uint64(_BASE), return_index=True)
        tasks = task_of[owner[once]]
        keys = every[once] ^ (tasks.astype(np.uint64) + np.uint64(1)) * _FACTORS[0]
        _, first, count = np.unique(keys, return_index=True, return_counts=True)
        limit = size[tasks[first]]
        common = every[once][first][(count * 2 > limit) & (limit >= 4)]
        return np.isin(every, common)

    @staticmethod
    def _covered(words: int, places: Numbers) -> NDArray[np.bool_]:
        """Tokens that lie in one of the n-grams that begin at `places`."""
        steps = np.zeros(words + GRAM + 1, np.int64)
        np.add.at(steps, places, 1)
        np.add.at(steps, places + GRAM, -1)
        return np.cumsum(steps)[:words] > 0

    def scan(self, documents: Iterable[str]) -> Iterator[int]:
        """Look through documents; yields how many bytes were looked at since the last time."""
        batch: list[bytes] = []
        size = 0
        for document in documents:
            for start in range(0, max(1, len(document)), 4 * _BATCH):
                piece = document[start : start + 4 * _BATCH + self._overlap]
                data = piece.lower().encode("utf-8", "replace")
                batch.append(data)
                size += len(data) + 1
                if size >= _BATCH:
                    self._look(batch)
                    yield size
                    batch, size = [], 0
        if batch:
            self._look(batch)
            yield size

    def found_in(self, text: str) -> list[tuple[str, str, float]]:
        """(task, id, share of its tokens) of each question of which this text has an 8-gram."""
        _, number = self._known(grams(tokens(text.lower().encode("utf-8", "replace"))[0]))
        entries = [np.arange(self._first[n], self._first[n] + self._count[n]) for n in np.unique(number)]
        if not entries:
            return []
        entry = np.concatenate(entries)
        covered = self._covered(len(self._countable), self._place[entry])
        found = []
        for owner in np.unique(self._owner[entry]):
            task, key, _ = self.texts[owner]
            start, end = self._spans[owner]
            found.append((task, key, float(covered[start:end].sum() / self._countable[start:end].sum())))
        return found

    def _known(self, made: Hashes) -> tuple[Numbers, Numbers]:
        """Which n-grams of a text are a question's, and which of `_unique` each is."""
        at = np.flatnonzero(self._sieve[(made >> self._shift).astype(np.int64)])
        number = np.searchsorted(self._unique, made[at])
        number = np.minimum(number, len(self._unique) - 1)
        kept = self._unique[number] == made[at] if len(at) else np.zeros(0, bool)
        return at[kept], number[kept]

    def _look(self, batch: list[bytes]) -> None:
        words, begin = tokens(b"\n".join(batch))
        at, number = self._known(grams(words))
        if not len(at):
            return
        ends = np.cumsum([len(data) + 1 for data in batch])
        inside = np.searchsorted(ends, begin[at], "right") == np.searchsorted(ends, begin[at + GRAM - 1], "right")
        at, number = at[inside], number[inside]
        self._seen[number] = True
        starts = np.searchsorted(begin, np.append(0, ends))
        inner = np.searchsorted(starts, at, "right")
        self._runs(words, at, number, starts[inner - 1], starts[np.minimum(inner, len(starts) - 1)])

    def _runs(self, words: Hashes, at: Numbers, number: Numbers, low: Numbers, high: Numbers) -> None:
        """The longest run of each question: n-grams that follow each other in both, on one diagonal of place in corpus - place in question,
        and what is the same before and after, such as a prompt's wording. `low` and `high` are the first tokens of each one's document and of the next.
        """
        count = self._count[number]
        total = int(count.sum())
        if not total:
            return
        entry = np.repeat(self._first[number] - np.cumsum(count) + count, count) + np.arange(total)
        where, owner, place = np.repeat(at, count), self._owner[entry], self._place[entry]
        order = np.lexsort((where, where - place, owner))
        where, owner, place = where[order], owner[order], place[order]
        low, high = np.repeat(low, count)[order], np.repeat(high, count)[order]
        follows = (owner[1:] == owner[:-1]) & (where[1:] == where[:-1] + 1) & (place[1:] == place[:-1] + 1)
        first = np.flatnonzero(np.append(True, ~follows))
        length = np.diff(np.append(first, total)) + GRAM - 1
        left, own = where[first], place[first]
        before = self._same(words, left - 1, own - 1, -1, low[first], self._bounds[owner[first], 0])
        after = self._same(words, left + length, own + length, 1, high[first], self._bounds[owner[first], 1])
        np.maximum.at(self._longest, owner[first], length + before + after)

    def _same(self, words: Hashes, at: Numbers, own: Numbers, step: int, end: Numbers, own_end: Numbers) -> Numbers:
        """How many tokens on from `at` in the corpus and `own` in the questions are the same, up to the ends of document and question."""
        room = np.minimum(end - at, own_end - own) if step > 0 else np.minimum(at - end, own - own_end) + 1
        count = np.zeros(len(at), np.int64)
        live = np.flatnonzero(room > 0)
        while len(live):
            equal = words[at[live] + step * count[live]] == self._words[own[live] + step * count[live]]
            count[live[equal]] += 1
            live = live[equal & (count[live] < room[live])]
        return count

    def matches(self) -> dict[str, list[Match]]:
        """What was found so far, by task."""
        hit = np.repeat(self._seen, self._count)
        covered = self._covered(len(self._countable), self._place[hit])
        found: dict[str, list[Match]] = {}
        for number, ((task, key, _), (start, end)) in enumerate(zip(self.texts, self._spans, strict=True)):
            countable = int(self._countable[start:end].sum())
            share = int(covered[start:end].sum()) / countable if countable else 0.0
            found.setdefault(task, []).append(Match(key, end - start, share, int(self._longest[number])))
        return found
