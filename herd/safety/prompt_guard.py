"""Injections and jailbreaks: the embedded classifier, which needs no download and no torch.

Two heads. Texts of a user: does it try to override, unbind or interrogate the model? Texts of third parties (tool results, documents,
mail): does any sentence in it give orders to an assistant? What it catches and misses is in docs/explanation/safety.md.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from herd.safety.models.features import features, plain, sentences, windows
from herd.safety.models.linear import Linear, load

# Thresholds on `1 - benign` by use, from held-back rows: of harmless texts about one in a thousand of users' and one in a hundred of
# third parties' is above them.
THRESHOLDS = {"user": 0.87, "third_party": 0.7}


class Scores(NamedTuple):
    """Probabilities that add up to one."""

    benign: float
    injection: float
    jailbreak: float


def score(texts: Sequence[str], third_party: bool = False, temperature: float = 1.0) -> list[Scores]:
    """Scores of each text; long texts count by their worst window, texts of third parties by their worst sentence.

    `temperature` above 1 softens. About half a millisecond for 500 characters.
    """
    model = load("prompt_guard")
    return [_score(model, text, third_party, temperature) for text in texts]


def _score(model: Linear, text: str, third_party: bool, temperature: float) -> Scores:
    pieces = [plain(s) for s in sentences(text)] if third_party else windows(plain(text))
    margins = [m for m in (_margins(model, piece) for piece in pieces) if m is not None]
    if not margins:
        return Scores(1.0, 0.0, 0.0)
    attack, jailbreak, third = (list(model.names).index(n) for n in ("attack", "jailbreak", "third"))
    worst = max(margins, key=lambda m: float(m[third if third_party else attack]))
    hostile = _sigmoid(float(worst[third if third_party else attack]) / temperature)
    share = _sigmoid(float(worst[jailbreak]) / temperature)
    return Scores(1 - hostile, hostile * (1 - share), hostile * share)


def _margins(model: Linear, piece: str) -> Any:
    indices, values = features(piece)
    return model.margins(indices, values) if len(indices) else None


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))
