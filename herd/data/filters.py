"""Which documents are kept: language, lengths, lines, words, repetition, dirty words.

Rules are those of Gopher (Rae et al., arXiv 2112.11446, table A1), C4 (Raffel et al., arXiv 1910.10683) and FineWeb (arXiv
2406.17557) where the comment beside a field says so. Languages without spaces between words (Thai, Chinese, Japanese, Khmer,
Lao, Burmese) are counted in characters: rules about words do not hold there.
"""

import functools
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

UNSPACED = frozenset(("th", "zh", "ja", "km", "lo", "my"))
"""Languages that put no spaces between words."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a document must hold to be kept. Fractions are of 1; None turns a rule off."""

    languages: tuple[str, ...] = ()  # empty: all
    language_score: float = 0.3  # FineWeb: 0.65; pages of documentation that hold code score 0.3 to 0.6
    min_words: int = 50  # Gopher
    max_words: int = 100_000  # Gopher
    min_characters: int = 200  # for languages without spaces
    mean_word_length: tuple[float, float] | None = (3.0, 10.0)  # Gopher; not for languages without spaces
    max_symbol_ratio: float | None = 0.1  # Gopher: # and ... a word
    max_bullet_lines: float | None = 0.9  # Gopher
    max_ellipsis_lines: float | None = 0.3  # Gopher
    min_alphabetic_words: float | None = 0.8  # Gopher; letters and their marks
    max_duplicate_lines: float | None = 0.3  # Gopher, of lines
    max_duplicate_line_characters: float | None = 0.2  # Gopher, of characters
    max_top_ngram: tuple[float, float, float] | None = (0.20, 0.18, 0.16)  # Gopher: 2, 3, 4 words
    max_duplicate_ngram: tuple[float, ...] | None = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # Gopher: 5 to 10 words
    max_short_lines: float | None = 0.67  # FineWeb: lines of at most 30 characters
    drop_phrases: tuple[str, ...] = ("lorem ipsum",)  # C4
    max_braces: float | None = None  # C4 drops pages with a brace; here a fraction of characters, since code has them
    max_dirty_words: float | None = 0.01  # of words (characters of dirty words where there are no spaces)
    reference: str = ""  # a file of `herd data count`, from the recipe's own folder, for max_divergence
    max_divergence: float | None = None  # Llama 3: nats that a text's words are from the reference's
    quality: str = ""  # a file of `herd data learn`, for min_quality
    min_quality: float | None = None  # the probability that a text is good
    redact: bool = True


class Drop(NamedTuple):
    """Why a document goes: the rule's name and the value that broke it."""

    rule: str
    value: float | str


class _Words:
    """The words of a text (characters where no spaces part words): each as a number, and how often each different one comes."""

    def __init__(self, words: Sequence[str]) -> None:
        table: dict[str, int] = {}
        number = table.setdefault
        self.ids = np.array([number(word, len(table)) for word in words], np.int64)  # [words]
        self.different = list(table)
        self.counts = np.bincount(self.ids, minlength=len(table))
        self.lengths = np.array([*map(len, self.different)], np.int64)  # of the different ones, in characters

    def __len__(self) -> int:
        return len(self.ids)


def judge(text: str, language: str, rules: Rules) -> Drop | None:
    """The first rule that a text breaks, or None. `language` is an ISO 639-1 code; what costs least is looked at first."""
    unspaced = language in UNSPACED
    plain = "".join(text.split()) if unspaced else text.split()
    if unspaced and len(plain) < rules.min_characters:
        return Drop("min_characters", len(plain))
    if not unspaced and len(plain) < rules.min_words:
        return Drop("min_words", len(plain))
    if len(plain) > rules.max_words * (4 if unspaced else 1):
        return Drop("max_words", len(plain))
    lowered = text.casefold()
    for phrase in rules.drop_phrases:
        if phrase.casefold() in lowered:
            return Drop("drop_phrases", phrase)
    if found := _lines(text, rules):
        return found
    words = _Words(plain)
    return (
        (None if unspaced else _shapes(text, words, rules))
        or _repetition(words, rules, 6 if unspaced else 1)
        or _dirty(lowered, language, words, rules)
    )


def _over(rule: str, value: float, limit: float | None) -> Drop | None:
    return Drop(rule, round(value, 4)) if limit is not None and value > limit else None


def _lines(text: str, rules: Rules) -> Drop | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    count = len(lines)
    seen = Counter(lines)
    duplicate = count - len(seen)
    size = sum(map(len, lines)) or 1
    return (
        _over("max_bullet_lines", sum(line[0] in "•-*‣◦" for line in lines) / count, rules.max_bullet_lines)
        or _over("max_ellipsis_lines", sum(line.endswith(("...", "…")) for line in lines) / count, rules.max_ellipsis_lines)
        or _over("max_duplicate_lines", duplicate / count, rules.max_duplicate_lines)
        or _over(
            "max_duplicate_line_characters",
            sum(len(line) * (n - 1) for line, n in seen.items() if n > 1) / size,
            rules.max_duplicate_line_characters,
        )
        or (_over("max_short_lines", sum(len(line) <= 30 for line in lines) / count, rules.max_short_lines) if count > 3 else None)
        or _over("max_braces", (text.count("{") + text.count("}")) / size, rules.max_braces)
    )  # fmt: skip


def _shapes(text: str, words: _Words, rules: Rules) -> Drop | None:
    mean = float(words.counts @ words.lengths) / len(words)
    if rules.mean_word_length and not rules.mean_word_length[0] <= mean <= rules.mean_word_length[1]:
        return Drop("mean_word_length", round(mean, 3))
    symbols = (text.count("#") + text.count("...") + text.count("…")) / len(words)
    if found := _over("max_symbol_ratio", symbols, rules.max_symbol_ratio):
        return found
    if rules.min_alphabetic_words is not None:
        alphabetic = np.fromiter((_LETTER.search(word) is not None for word in words.different), bool)
        share = float(words.counts @ alphabetic) / len(words)
        if share < rules.min_alphabetic_words:
            return Drop("min_alphabetic_words", round(share, 4))
    return None


_LETTER = re.compile(r"[^\W\d_]")


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _runs(words: _Words) -> Iterator[NDArray[np.uint64]]:
    """For n = 1, 2, ...: a number for each run of n words, alike for like runs (64-bit polynomial hash of random numbers)."""
    random = np.random.default_rng(0).integers(0, 1 << 64, len(words.different), np.uint64)[words.ids]
    runs = random
    for n in itertools.count(1):
        yield runs
        runs = runs[:-1] * _ODD + random[n:]


def _repetition(words: _Words, rules: Rules, unit: int) -> Drop | None:
    """Share of characters in the most frequent 2- to 4-gram, and in 5- to 10-grams that were there before (each counted once).

    Where no spaces part words, `unit` characters stand for one.
    """
    sizes = words.lengths[words.ids]
    ends = np.concatenate(([0], sizes.cumsum()))  # characters before each word
    total = int(ends[-1]) or 1
    limits = dict(enumerate(rules.max_top_ngram or (), 2))
    limits |= dict(enumerate(rules.max_duplicate_ngram or (), 5))
    for length, runs in enumerate(_runs(words), 1):
        n, part = divmod(length, unit)
        if not len(runs) or n > max(limits, default=0):
            return None
        if part or n not in limits:
            continue
        ordered = np.sort(runs)
        if not (ordered[1:] == ordered[:-1]).any():
            # A long repeated run holds shorter ones: where none repeats, no longer one does.
            return None
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        times = np.diff(starts, append=len(ordered))
        most, longest = int(times.max()), int((ends[length:] - ends[:-length]).max())  # of all runs of n words
        if n < 5 and most * longest > limits[n] * total:
            first = int(np.isin(runs, ordered[starts[times == most]]).argmax())
            found = _over(f"max_top_{n}gram", most * int(ends[first + length] - ends[first]) / total, limits[n])
        elif n >= 5 and (len(ordered) - len(starts)) * longest > limits[n] * total:
            again = np.ones(len(runs), bool)
            again[np.unique(runs, return_index=True)[1]] = False
            edges = np.zeros(len(sizes) + 1, np.int64)
            edges[: len(runs)] += again
            edges[length : length + len(runs)] -= again
            found = _over(f"max_duplicate_{n}gram", int(sizes[edges[:-1].cumsum() > 0].sum()) / total, limits[n])
        else:
            found = None
        if found:
            return found
    return None


@functools.cache
def _dirty_words(language: str) -> tuple[re.Pattern[str], frozenset[str], list[tuple[str, frozenset[str]]]] | None:
    """What finds dirty words; those that are one word; the others, each with the words that it is made of."""
    try:
        text = (resources.files("herd.data") / "dirty_words.json").read_text("utf-8")
    except OSError:
        return None
    words: list[str] = [word.casefold() for word in json.loads(text).get(language, [])]
    if not words:
        return None
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pattern = re.compile(either if language in UNSPACED else rf"(?<!\w)(?:{either})(?!\w)")
    parts = [(word, frozenset(_WORD.findall(word))) for word in words]
    single = frozenset(next(iter(part)) for _, part in parts if len(part) == 1)
    return pattern, single, [(word, part) for word, part in parts if len(part) != 1]


_WORD = re.compile(r"\w+")


def _dirty(lowered: str, language: str, words: _Words, rules: Rules) -> Drop | None:
    dirty = _dirty_words(language) if rules.max_dirty_words is not None else None
    if dirty is None:
        return None
    pattern, single, several = dirty
    unspaced = language in UNSPACED
    if not unspaced:
        here = frozenset(_WORD.findall(" ".join(words.different).casefold()))
        if single.isdisjoint(here) and not any(part <= here and word in lowered for word, part in several):
            return None
    found = pattern.findall(lowered)
    hits = sum(map(len, found)) if unspaced else len(found)
    return _over("max_dirty_words", hits / len(words), rules.max_dirty_words)


def clean(text: str) -> str:
    """Unicode in its composed form (NFC) without control characters; line ends as one newline."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROL.sub("", text)


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
