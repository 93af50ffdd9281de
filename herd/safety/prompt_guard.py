"""Injections and jailbreaks: the embedded classifiers, which need no download and no torch.

Two of them. Texts of a user: does it try to override, unbind or interrogate the model? Texts of third parties (tool results, documents,
mail): does any sentence in it give orders to an assistant? What they catch and miss is in docs/explanation/safety.md.

`open_folder` gives Meta's Prompt Guard with the same methods, where its files are.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from herd.safety.models.features import plain, sentences, windows
from herd.safety.models.net import load, piece

# Thresholds on `1 - benign` by use, from held-back rows: of harmless texts about one in a thousand of users' and one in a hundred of
# third parties' is above them.
THRESHOLDS = {"user": 0.8, "third_party": 0.7}


class Scores(NamedTuple):
    """Probabilities that add up to one."""

    benign: float
    injection: float
    jailbreak: float


class PromptGuard(Protocol):
    """What this module and an opened guard have in common."""

    def score(self, texts: Sequence[str], third_party: bool = False) -> list[Scores]:
        """Scores of each text."""
        ...

    def hostile(self, scores: Scores, third_party: bool = False) -> float:
        """What counts against a text, 0 to 1."""
        ...

    def limit(self, third_party: bool = False) -> float:
        """Where `hostile` flags by default."""
        ...


def score(texts: Sequence[str], third_party: bool = False, temperature: float = 1.0) -> list[Scores]:
    """Scores of each text; long texts count by their worst window, texts of third parties by their worst sentence.

    `temperature` above 1 softens.
    """
    return [_score(text, third_party, temperature) for text in texts]


def hostile(scores: Scores, third_party: bool = False) -> float:
    """What counts against a text: that it is not benign."""
    return 1 - scores.benign


def limit(third_party: bool = False) -> float:
    """Where `hostile` flags by default."""
    return THRESHOLDS["third_party" if third_party else "user"]


def _score(text: str, third_party: bool, temperature: float) -> Scores:
    user = load("prompt_guard")
    attack, jailbreak = (user.names.index(name) for name in ("attack", "jailbreak"))
    found = [piece(p) for p in ([plain(s) for s in sentences(text)] if third_party else windows(plain(text))) if p]
    if not found:
        return Scores(1.0, 0.0, 0.0)
    judge, head = (load("third_party"), 0) if third_party else (user, attack)
    margin, worst = max(((float(judge.margins(p)[head]), i) for i, p in enumerate(found)))
    hostile = _sigmoid(margin / temperature)
    share = _sigmoid(float(user.margins(found[worst])[jailbreak]) / temperature)
    return Scores(1 - hostile, hostile * (1 - share), hostile * share)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


class Opened:
    """A Prompt Guard of Meta's, or one of the same shape."""

    def __init__(self, folder: Path) -> None:
        from herd.safety.deberta import Guard

        self._guard = Guard(folder)

    def score(self, texts: Sequence[str], third_party: bool = False, temperature: float = 1.0) -> list[Scores]:
        """Scores of each text by its worst window of 512 tokens. A guard with two labels calls all that is hostile a jailbreak."""
        return [self._score(text, third_party, temperature) for text in texts]

    def hostile(self, scores: Scores, third_party: bool = False) -> float:
        """What counts: of users' texts jailbreaks alone, since Meta's "injection" is any order at all; of third parties' both."""
        return scores.jailbreak + (scores.injection if third_party else 0.0)

    def limit(self, third_party: bool = False) -> float:
        """Where `hostile` flags by default."""
        return 0.5

    def _score(self, text: str, third_party: bool, temperature: float) -> Scores:
        rows = self._guard.chances(text, temperature)
        found = [
            Scores(*map(float, row)) if self._guard.three else Scores(float(row[0]), 0.0, float(row[1])) for row in rows
        ]
        return max(found, key=lambda one: self.hostile(one, third_party))


def open_folder(folder: Path) -> Opened:
    """The guard of a folder as `herd pull hf:meta-llama/Prompt-Guard-86M` makes it; FormatError where it is none."""
    return Opened(folder)
