"""Choosing tokens on the device: what `herd.engine.sampling` says, for all rows of a step at once.

Each row's result depends on that row alone: nothing is summed across rows, and random numbers come from its own seed and position.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from herd.engine.backend import Sampling
from herd.engine.request import TokenLogprob
from herd.engine.seed import uniform


def choose_rows(logits: Tensor, samplings: Sequence[Sampling]) -> list[int]:
    """The next token of each row of logits [rows, vocab] in float32."""
    scores = _adjusted(logits, samplings)
    chosen = scores.argmax(-1)
    drawn = [i for i, one in enumerate(samplings) if one.params.temperature != 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        chosen[rows] = _draw(logits[rows], scores[rows], [samplings[i] for i in drawn])
    return [int(token) for token in chosen.tolist()]


def log_probabilities(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log-probability of a token under each row of logits [rows, vocab], with that row's `tops` most likely tokens."""
    wide = logits.double()
    norms = torch.logsumexp(wide, -1)
    index = torch.tensor(tokens, device=logits.device)
    found = (wide.gather(1, index[:, None])[:, 0] - norms).tolist()
    most = min(max(tops, default=0), logits.shape[-1])
    best: list[list[tuple[int, float]]] = [[] for _ in tokens]
    if most:
        values, ids = wide.topk(most, dim=-1)
        for i, (row, names) in enumerate(zip((values - norms[:, None]).tolist(), ids.tolist(), strict=True)):
            best[i] = sorted(zip(names, row, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [TokenLogprob(t, p, tuple(b[:n])) for t, p, b, n in zip(tokens, found, best, tops, strict=True)]


def _adjusted(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Logits after bias, mask and penalties; the input is not changed."""
    scores, device = logits.clone(), logits.device
    for i, one in enumerate(samplings):
        if one.params.logit_bias:
            ids = torch.tensor(list(one.params.logit_bias), device=device)
            scores[i, ids] += torch.tensor(list(one.params.logit_bias.values()), dtype=torch.float32, device=device)
    masked = [(i, one.mask()) for i, one in enumerate(samplings) if one.mask is not None]
    if masked:
        allowed = _bits([words for _, words in masked], scores.shape[-1], device)
        rows = torch.tensor([i for i, _ in masked], device=device)
        scores[rows] = scores[rows].masked_fill(~allowed, -torch.inf)
    for i, one in enumerate(samplings):
        params = one.params
        if params.repetition_penalty != 1 and len(one.history):
            seen = torch.unique(torch.tensor(one.history, device=device))
            found = scores[i, seen]
            scores[i, seen] = torch.where(
                found > 0, found / params.repetition_penalty, found * params.repetition_penalty
            )
        reply = one.history[one.prompt_length :]
        if (params.presence_penalty or params.frequency_penalty) and len(reply):
            seen, counts = torch.unique(torch.tensor(reply, device=device), return_counts=True)
            scores[i, seen] -= params.presence_penalty + params.frequency_penalty * counts.float()
    return scores


def _bits(masks: list[NDArray[np.uint32]], vocab: int, device: torch.device) -> Tensor:
    """Masks in words of 32 bits -> which tokens are allowed [rows, vocab]; tokens beyond a mask's words are not."""
    words = np.zeros((len(masks), -(-vocab // 32)), np.uint32)
    for row, mask in zip(words, masks, strict=True):
        row[: len(mask)] = mask[: len(row)]
    sent = torch.from_numpy(words.view(np.int32)).to(device)
    bits = (sent.unsqueeze(-1) >> torch.arange(32, device=device, dtype=torch.int32)) & 1
    return bits.flatten(1)[:, :vocab].bool()


def _draw(logits: Tensor, scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """A token for each row: temperature, top-k, top-p, min-p, then one walk over the kept tokens in the order of their ids."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=scores.device).unsqueeze(1)

    params = [one.params for one in samplings]
    largest = scores.amax(-1, keepdim=True)
    scaled = (scores.double() - largest.double()) / column([p.temperature for p in params])
    weights = scaled.exp()
    if any(p.top_k or p.top_p < 1 for p in params):
        order = scaled.sort(dim=-1, descending=True, stable=True).indices
        ranked = weights.gather(1, order)
        rank = torch.arange(scores.shape[-1], device=scores.device)
        ranked = ranked.where(rank < column([p.top_k or scores.shape[-1] for p in params]), 0.0)
        cumulative = ranked.cumsum(-1)
        top_p = column([p.top_p for p in params])
        count = (cumulative < top_p * cumulative[:, -1:]).sum(-1, keepdim=True) + 1
        ranked = ranked.where((rank < count) | (top_p >= 1), 0.0)
        weights = torch.zeros_like(weights).scatter(1, order, ranked)
    weights = weights.where(weights >= column([p.min_p for p in params]), 0.0)  # the largest weight is 1
    cumulative = weights.cumsum(-1)
    drawn = column([uniform(one.seed, one.position) for one in samplings]) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, drawn, right=True)[:, 0]
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1)
    return torch.where(largest[:, 0] > -torch.inf, torch.minimum(found, last), logits.argmax(-1))
