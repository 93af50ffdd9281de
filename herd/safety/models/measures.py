"""How well a classifier tells two kinds of texts apart, and the trivial one that each figure stands beside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from herd.safety.models.features import features
from herd.safety.models.linear import fit
from herd.safety.models.rows import Row


def recall_at(attack: Any, harmless: Any, share: float) -> tuple[float, float]:
    """Share of attacks above the threshold that `share` of the harmless pass, and that threshold."""
    threshold = float(np.quantile(harmless, 1 - share))
    return float(np.mean(np.asarray(attack) > threshold)), threshold


def area(attack: Any, harmless: Any) -> float:
    """Area under the receiver operating characteristic: how often an attack scores above a harmless text, ties by half."""
    values, at = np.unique(np.concatenate([attack, harmless]), return_inverse=True)
    counts = np.bincount(at, minlength=len(values))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]
    n, m = len(attack), len(harmless)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def trivial(seen: Sequence[Row], *others: Sequence[Row], most: int = 8000) -> list[Any]:
    """Log-odds of the others' rows by logistic regression on hashed n-grams of the rows seen: no tricks undone, no words known."""
    hostile, calm = [r for r in seen if r.label], [r for r in seen if not r.label]
    some = hostile[:: max(1, len(hostile) // most)] + calm[:: max(1, len(calm) // most)]
    found = [features(r.text[:700].casefold()) for r in some]
    good = [i for i, f in enumerate(found) if len(f[0])]
    labels = np.array([some[i].label for i in good])
    w, bias = fit(
        [found[i] for i in good], labels, np.where(labels == 1, 1 / labels.sum(), 1 / (1 - labels).sum()), rounds=40
    )
    return [
        np.array([float(w[i] @ v) + bias for i, v in (features(r.text[:700].casefold()) for r in rows)])
        for rows in others
    ]
