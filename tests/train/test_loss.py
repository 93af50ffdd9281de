"""The chunked loss against float64, and what it may hold in memory."""

import pytest
import torch
import torch.nn.functional as F

from herd.train import loss as losses
from herd.train.loss import token_logprobs, weighted_loss


def inputs(n=37, dim=24, vocab=1000, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, dim, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(vocab, dim, generator=generator) * 0.3).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab, (n,), generator=generator)
    weights = torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) > 0.3)
    return hidden, weight, targets, weights


def truth(hidden, weight, targets, function):
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    value = function(-F.cross_entropy(wide[0] @ wide[1].T, targets, reduction="none"))
    torch.autograd.backward(value)
    return value.item(), *(x.grad for x in wide)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("form", ["known weights", "any function"])
def test_value_and_gradients_against_float64(monkeypatch, dtype, tolerance, form):
    monkeypatch.setattr(losses, "CHUNK_BYTES", 16 * 4 * 1000)  # three chunks
    hidden, weight, targets, weights = inputs(dtype=dtype)
    if form == "known weights":
        found = weighted_loss(hidden, weight, targets, weights) * 0.5
        wanted = truth(hidden, weight, targets, lambda each: -(each * weights).sum() * 0.5)
    else:
        found = F.logsigmoid(token_logprobs(hidden, weight, targets).sum() * 0.01)
        wanted = truth(hidden, weight, targets, lambda each: F.logsigmoid(each.sum() * 0.01))
    torch.autograd.backward(found)
    assert abs(found.item() - wanted[0]) < tolerance * abs(wanted[0])
    for mine, theirs in ((hidden.grad, wanted[1]), (weight.grad, wanted[2])):
        assert (mine.double() - theirs).norm() < tolerance * theirs.norm()


def test_a_frozen_weight_gets_no_gradient():
    hidden, weight, targets, weights = inputs()
    weight.requires_grad_(False)
    torch.autograd.backward(weighted_loss(hidden, weight, targets, weights))
    assert hidden.grad is not None
    assert weight.grad is None
