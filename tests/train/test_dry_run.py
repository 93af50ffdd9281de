"""What the dry run says of memory is what a forward pass keeps; giving it up changes no gradient."""

import pytest
import torch

from herd.family import ModelConfig
from herd.model.attention import Documents
from herd.model.llama import Transformer
from herd.train.dry_run import activation_bytes
from herd.train.open import recompute_layers

VALUES = {"layers": 4, "dim": 128, "ffn_dim": 320, "heads": 4, "kv_heads": 2, "head_dim": 32, "vocab": 64}
MASK = Documents((100, 156))


def forward(model):
    """States of 256 tokens, and the bytes that were kept for the backward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model(torch.arange(256)[None] % 64, mask=MASK, head=False)
    return states, sum(size for size, _ in kept.values())


@pytest.mark.parametrize("change", [{}, {"dim": 256}, {"ffn_dim": 640}, {"heads": 8}, {"kv_heads": 4}, {"layers": 8}])
def test_activations_are_within_a_twentieth(change):
    config = ModelConfig(**{**VALUES, **change})
    _, found = forward(Transformer(config))
    assert abs(activation_bytes(config, 256) - found) < 0.05 * found


def test_layers_computed_again_keep_little_and_give_the_same_gradients():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**VALUES))
    found = []
    for again in (False, True):
        if again:
            recompute_layers(model)
        model.zero_grad()
        states, kept = forward(model)
        torch.autograd.backward(states.square().mean())
        found.append((kept, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[1][0] < 0.2 * found[0][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
