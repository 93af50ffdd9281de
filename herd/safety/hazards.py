"""Harmful content: a small embedded classifier, which needs no download and no torch. Categories are those of Llama Guard 3.

It is weak, and its card (models/hazards.md) says how weak: fit for sorting and annotating, not for blocking. Llama Guard 3
(herd.safety.llama_guard) reads. S14 it cannot judge.
"""

import math
from collections.abc import Sequence

from herd.safety.models.features import features, plain, windows
from herd.safety.models.linear import load

# Limits of "unsafe" by dial; 5% of the safe rows of OpenAI's set that were held back are above medium.
STRICTNESS = {"loose": 0.6, "medium": 0.375, "strict": 0.25}


def score(texts: Sequence[str]) -> list[dict[str, float]]:
    """For each text the probability of each category, given what was learnt, and of "unsafe". Long texts count by their worst window."""
    model = load("hazards")
    unsafe = model.names.index("unsafe")
    found = []
    for text in texts:
        worst = None
        for piece in windows(plain(text)):
            indices, values = features(piece)
            if len(indices):
                margins = model.margins(indices, values)
                if worst is None or margins[unsafe] > worst[unsafe]:
                    worst = margins
        if worst is None:
            found.append(dict.fromkeys(model.names, 0.0))
        else:
            found.append(
                {
                    name: 1 / (1 + math.exp(-max(-50.0, min(50.0, float(m)))))
                    for name, m in zip(model.names, worst, strict=True)
                }
            )
    return found


def verdict(scores: dict[str, float], strictness: str = "medium") -> str:
    """safe, controversial or unsafe: controversial lies between the dial and the next looser one."""
    dials = list(STRICTNESS.values())
    limit = STRICTNESS[strictness]
    above = min((d for d in dials if d > limit), default=0.97)
    return "unsafe" if scores["unsafe"] >= above else "controversial" if scores["unsafe"] >= limit else "safe"
