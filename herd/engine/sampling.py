"""Choosing the next token from logits: the reference in numpy, which backends in other languages must equal.

Order: logit bias, mask, repetition penalty, presence and frequency penalties; greedy if temperature is 0; otherwise
temperature, top-k, top-p, min-p, then one draw walking the kept tokens in the order of their ids.
"""

import numpy as np
from numpy.typing import NDArray

from herd.engine.backend import Sampling
from herd.engine.request import TokenLogprob
from herd.engine.seed import uniform


def adjust(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float32]:
    """Logits [vocab] after bias, mask and penalties; the input is not changed."""
    params = sampling.params
    scores = logits.copy()
    for token, bias in params.logit_bias.items():
        scores[token] += np.float32(bias)
    if sampling.mask is not None:
        allowed = np.unpackbits(sampling.mask().view(np.uint8), bitorder="little")[: len(scores)].astype(bool)
        scores[: len(allowed)][~allowed] = -np.inf
        scores[len(allowed) :] = -np.inf
    if params.repetition_penalty != 1 and len(sampling.history):
        seen = np.unique(np.asarray(sampling.history))
        penalty = np.float32(params.repetition_penalty)
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    if params.presence_penalty or params.frequency_penalty:
        reply = np.asarray(sampling.history[sampling.prompt_length :], dtype=np.int64)
        tokens, counts = np.unique(reply, return_counts=True)
        scores[tokens] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts.astype(
            np.float32
        )
    return scores


def choose(logits: NDArray[np.float32], sampling: Sampling) -> int:
    """The next token for logits [vocab]."""
    params = sampling.params
    scores = adjust(logits, sampling)
    if params.temperature == 0:
        return int(scores.argmax())
    kept = np.flatnonzero(scores > -np.inf)
    if not len(kept):
        return int(logits.argmax())
    scaled = (scores[kept].astype(np.float64) - float(scores.max())) / params.temperature
    if 0 < params.top_k < len(kept):
        order = np.argsort(-scaled, kind="stable")[: params.top_k]
        order.sort()
        kept, scaled = kept[order], scaled[order]
    weights = np.exp(scaled)
    if params.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        cumulative = np.cumsum(weights[order])
        count = int(np.searchsorted(cumulative, params.top_p * cumulative[-1])) + 1
        order = np.sort(order[:count])
        kept, weights = kept[order], weights[order]
    if params.min_p > 0:
        above = weights >= params.min_p * weights.max()
        kept, weights = kept[above], weights[above]
    cumulative = np.cumsum(weights)
    drawn = uniform(sampling.seed, sampling.position) * cumulative[-1]
    return int(kept[min(int(np.searchsorted(cumulative, drawn, side="right")), len(kept) - 1)])


def log_probability(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob:
    """Log-probability of `token` under unmodified logits [vocab], with the `top` most likely tokens."""
    shifted = logits.astype(np.float64) - float(logits.max())
    norm = float(np.log(np.exp(shifted).sum()))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        candidates = np.argpartition(-shifted, min(top, len(shifted) - 1))[:top]
        candidates = candidates[np.lexsort((candidates, -shifted[candidates]))]
        best = tuple((int(t), float(shifted[t]) - norm) for t in candidates)
    return TokenLogprob(token, float(shifted[token]) - norm, best)
