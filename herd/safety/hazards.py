"""Harmful content: a small embedded classifier, which needs no download and no torch. Categories are those of Llama Guard 3.

What it finds and misses is on its card (models/hazards.md): it sorts and stops what is plain. Llama Guard 3 (herd.safety.llama_guard)
reads. S14 it cannot judge.
"""

import math
from collections.abc import Sequence

from herd.safety.models.features import features, plain, windows
from herd.safety.models.linear import load

# Limits of "unsafe" by dial; 5% of the safe rows of OpenAI's set that were held back are above medium.
STRICTNESS = {"loose": 0.93, "medium": 0.85, "strict": 0.6}


def score(texts: Sequence[str]) -> list[dict[str, float]]:
    """For each text the probability of each category, given what was learnt, and of "unsafe". Long texts count by their worst window."""
    net = load("hazards")
    found = []
    for text in texts:
        margins = [[float(m) for m in net.margins(*features(p))] for p in windows(plain(text)) if p]
        worst = max(margins, key=lambda m: max(m[:2]), default=[-50.0] * len(net.names))
        categories = {name: _sigmoid(m) for name, m in zip(net.names[2:], worst[2:], strict=True)}
        found.append({"unsafe": _sigmoid(max(worst[:2])), **categories})
    return found


def verdict(scores: dict[str, float], strictness: str = "medium") -> str:
    """safe, controversial or unsafe: controversial lies between the dial and the next looser one."""
    dials = list(STRICTNESS.values())
    limit = STRICTNESS[strictness]
    above = min((d for d in dials if d > limit), default=0.97)
    return "unsafe" if scores["unsafe"] >= above else "controversial" if scores["unsafe"] >= limit else "safe"


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))
