"""Is a text worth training on? A classifier learnt from labels, and how far a text's words are from those of good text.

The classifier is fastText's (arXiv 1607.01759) without its hidden layer: hashed words and pairs of words (characters where a language has no
spaces), one weight each. `fit` is passed in, since it stands above this room. Labels are a user's, or a model's: `herd synth` with the step `labels`.
"""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from herd.atomic import atomic_file
from herd.data.deduplicate import mix_bits, text_key, word_codes
from herd.data.filters import Drop, Rules
from herd.errors import ConfigError, FormatError

BITS = 18
LOOKED_AT = 1000
"""Characters of a text that are looked at, from its middle."""
_BUCKETS = 1 << 16
_U64 = np.uint64

Fit = Callable[[Sequence[tuple[Any, Any]], Any, Any], tuple[Any, float]]
"""(features of each row, labels 0 or 1, weight of each row) -> (weights, bias) of a logistic regression."""


class Learnt(NamedTuple):
    """How a classifier does on the tenth of its rows that it has not seen: share that is right, area under the ROC curve."""

    rows: int
    held_out: int
    accuracy: float
    auc: float


def features(text: str, language: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices below 2**BITS and values of a text's words and pairs of words."""
    middle = max(0, len(text) // 2 - LOOKED_AT // 2)
    codes = word_codes(text[middle : middle + LOOKED_AT], language)
    if not len(codes):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    pairs = codes[:-1] * _U64(0x100000001B3) + codes[1:] + _U64(1)
    found = np.unique(mix_bits(np.concatenate([codes, pairs])) >> _U64(64 - BITS)).astype(np.int64)
    return found, np.full(len(found), 1 / np.sqrt(len(found)), np.float32)


def learn(rows: Iterable[tuple[str, str, bool]], fit: Fit, out: Path) -> Learnt:
    """Train on (text, language, whether it is good) and write the classifier; a tenth of the texts, by their hashes, is held out.

    ConfigError when either kind is too rare to learn from.
    """
    seen: list[tuple[tuple[Any, Any], bool]] = []
    held: list[tuple[tuple[Any, Any], bool]] = []
    for text, language, good in rows:
        found = features(text, language)
        if len(found[0]):
            (held if text_key(text) % 10 == 0 else seen).append((found, good))
    for part, least in ((seen, 8), (held, 1)):
        goods = sum(good for _, good in part)
        if min(goods, len(part) - goods) < least:
            raise ConfigError(
                f"{len(seen) + len(held)} labelled texts, {goods} of {len(part)} in one part good; expected more of both kinds"
            )
    labels = np.array([good for _, good in seen], np.float32)
    balance = np.where(labels > 0, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    weights, bias = fit([found for found, _ in seen], labels, balance)
    with atomic_file(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, weights=np.asarray(weights, np.float16), bias=np.float32(bias))
    margins = np.array([_margin(found, weights, bias) for found, _ in held])
    truth = np.array([good for _, good in held])
    over = margins[truth][:, None] - margins[~truth][None]
    auc = float((over > 0).mean() + 0.5 * (over == 0).mean())
    return Learnt(len(seen), len(held), float(((margins > 0) == truth).mean()), auc)


def _margin(found: tuple[Any, Any], weights: Any, bias: float) -> float:
    return float(np.dot(weights[found[0]], found[1])) + bias


def score(text: str, language: str, file: str) -> float:
    """The probability that a text is good, by the classifier in `file`."""
    loaded = _load(file, ("weights", 1 << BITS))
    margin = _margin(features(text, language), loaded["weights"], float(loaded["bias"]))
    return 1 / (1 + float(np.exp(-max(-50.0, min(50.0, margin)))))


def count(texts: Iterable[tuple[str, str]], out: Path) -> int:
    """Write the reference that `divergence` compares with: how often each word (in 2**16 buckets) stands in (text, language); the words."""
    total = np.zeros(_BUCKETS, np.int64)
    for text, language in texts:
        total += np.bincount(_buckets(text, language), minlength=_BUCKETS)
    if not total.any():
        raise ConfigError("the reference's texts hold no words")
    with atomic_file(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, counts=total)
    return int(total.sum())


def divergence(text: str, language: str, file: str) -> float:
    """Kullback-Leibler divergence, in nats, of a text's words from the reference's; large where many are outliers there. Every bucket of the
    reference counts half a word more than it has.
    """
    counts = _load(file, ("counts", _BUCKETS))["counts"]
    found, times = np.unique(_buckets(text, language), return_counts=True)
    if not len(found):
        return 0.0
    own = times / times.sum()
    reference = (counts[found] + 0.5) / (counts.sum() + 0.5 * _BUCKETS)
    return float(np.sum(own * np.log(own / reference)))


def judge(text: str, language: str, rules: Rules) -> Drop | None:
    """The first of these two rules that a text breaks, or None."""
    if rules.max_divergence is not None:
        value = divergence(text, language, rules.reference)
        if value > rules.max_divergence:
            return Drop("max_divergence", round(value, 4))
    if rules.min_quality is not None:
        value = score(text, language, rules.quality)
        if value < rules.min_quality:
            return Drop("min_quality", round(value, 4))
    return None


def _buckets(text: str, language: str) -> NDArray[np.int64]:
    return (mix_bits(word_codes(text, language)) >> _U64(48)).astype(np.int64)


@lru_cache(maxsize=8)
def _load(file: str, expected: tuple[str, int]) -> dict[str, Any]:
    name, size = expected
    try:
        with np.load(file, allow_pickle=False) as found:
            values = {key: np.asarray(found[key]) for key in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{file}: cannot be read ({error}); expected what herd data learn or count wrote") from error
    if name not in values or values[name].shape != (size,):
        raise FormatError(f"{file}: holds no {name} of {size:,} numbers; expected what herd data {'learn' if name == 'weights' else 'count'} wrote")  # fmt: skip
    return {key: value.astype(np.float64) for key, value in values.items()}
