"""Linear layer and cross-entropy in one, some tokens at a time: logits [tokens, vocab] never exist whole.

Two forms. `weighted_loss` knows each token's weight beforehand, so gradients are made in the forward pass and the logits of a
token are computed once. `token_logprobs` gives log-probabilities that any loss may use (DPO's depends on their sums) and computes
logits again in the backward pass. Sums are taken in float32 whatever the type of the states.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 16 << 20
"""Bytes of float32 logits held at once."""


def weighted_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum over tokens of weights [n] times -log softmax(hidden [n, dim] @ weight.T [dim, vocab])[targets [n]], in nats."""
    loss: Tensor = _WeightedLoss.apply(hidden, weight, targets, weights.float())  # type: ignore[no-untyped-call]
    return loss


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(hidden [n, dim] @ weight.T [dim, vocab])[targets [n]], [n] in float32."""
    found: Tensor = _TokenLogprobs.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return found


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    step = max(16, CHUNK_BYTES // (4 * weight.shape[0]))
    for first in range(0, hidden.shape[0], step):
        yield slice(first, min(first + step, hidden.shape[0]))


def _exponentials(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(logits - largest) [n, vocab], their sums [n] and log-probabilities of the targets [n], in float32."""
    logits = torch.mm(hidden, weight.t()).float()
    logits.sub_(logits.amax(-1, keepdim=True))
    chosen = logits.gather(1, targets[:, None])[:, 0]
    sums = logits.exp_().sum(-1)
    return logits, sums, chosen - sums.log()


def _logit_gradients(found: tuple[Tensor, Tensor, Tensor], targets: Tensor, scale: Tensor) -> Tensor:
    """scale [n] times (softmax - one at the target), in place of the exponentials."""
    exponentials, sums, _ = found
    exponentials.mul_((scale / sums)[:, None])
    exponentials.scatter_add_(1, targets[:, None], -scale[:, None])
    return exponentials


class _Gradients:
    """Sums up the gradients of states and weight, chunk after chunk; the weight's in float32."""

    def __init__(self, hidden: Tensor, weight: Tensor, needed: tuple[bool, bool]) -> None:
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needed[1] else None

    def add(self, part: slice, logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
        narrow = logits.to(hidden.dtype)
        if self.hidden is not None:
            torch.mm(narrow, weight, out=self.hidden[part])
        if self.weight is not None:
            if hidden.dtype == torch.float32:
                self.weight.addmm_(narrow.t(), hidden[part])
            else:
                self.weight += torch.mm(narrow.t(), hidden[part])


class _WeightedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        ctx.kind = weight.dtype
        narrow = weight.to(hidden.dtype)
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad[:2])
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _chunks(hidden, weight):
                found = _exponentials(hidden[part], narrow, targets[part])
                total -= (weights[part] * found[2]).sum()
                if any(ctx.needs_input_grad):
                    gradients.add(part, _logit_gradients(found, targets[part], weights[part]), hidden, narrow)
                del found  # before the next piece is made
        ctx.gradients, ctx.scaled = gradients, False
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.gradients
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            del ctx.gradients
        if not ctx.scaled:  # schedules that part the backward pass come twice, with the same scale
            ctx.scaled = True
            for gradient in (found.hidden, found.weight):
                if gradient is not None:
                    gradient.mul_(scale)
        return found.hidden, None if found.weight is None else found.weight.to(ctx.kind), None, None


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        narrow = weight.to(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _chunks(hidden, weight):
                out[part] = _exponentials(hidden[part], narrow, targets[part])[2]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        narrow = weight.to(hidden.dtype)
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad[:2])
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _chunks(hidden, weight):
                found = _exponentials(hidden[part], narrow, targets[part])
                gradients.add(part, _logit_gradients(found, targets[part], -scale[part].float()), hidden, narrow)
                del found
        return gradients.hidden, None if gradients.weight is None else gradients.weight.to(weight.dtype), None
