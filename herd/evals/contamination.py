"""Was a benchmark in the training data? Scores of questions that a corpus has (`herd.data.overlap` finds them) and of the others, as the
Llama 3 paper tells them apart (arXiv 2407.21783, section 5.1.4).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from herd.data.overlap import Match
from herd.errors import ConfigError
from herd.statistics import Interval, mean

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 11))


@dataclass(frozen=True)
class Split:
    """A task's score apart at one threshold: questions with at least that share found, and the others."""

    threshold: float
    contaminated: int
    clean: int
    score: Interval
    clean_score: Interval | None
    contaminated_score: Interval | None
    gain: float  # score of all - score of the clean ones
    significant: bool


def split(matches: Sequence[Match], scores: Mapping[str, float], threshold: float) -> Split:
    """Scores at one threshold. A gain is significant if contaminated and clean questions differ at 5% (two-sided, pooled variance)."""
    pairs = [(scores[m.id], m.share >= threshold) for m in matches if m.id in scores]
    if not pairs:
        raise ConfigError("no question has a score; is the run of these tasks?")
    every = [value for value, _ in pairs]
    dirty, clean = [v for v, found in pairs if found], [v for v, found in pairs if not found]
    gain, sure = 0.0, False
    if dirty and clean:
        gain = sum(every) / len(every) - sum(clean) / len(clean)
        spread = float(np.var(every)) * (1 / len(dirty) + 1 / len(clean))
        sure = abs(sum(dirty) / len(dirty) - sum(clean) / len(clean)) > 1.96 * math.sqrt(spread) and spread > 0
    return Split(threshold, len(dirty), len(clean), mean(every), mean(clean) if clean else None, mean(dirty) if dirty else None, gain, sure)  # fmt: skip


def best(splits: Sequence[Split]) -> Split:
    """The threshold with the largest significant gain, as the paper chooses it for each benchmark; without one, the largest gain. Of equal ones the highest."""
    return max(splits, key=lambda one: (one.significant and one.gain > 0, round(one.gain, 9), one.threshold))
