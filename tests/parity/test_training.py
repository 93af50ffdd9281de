"""Losses and gradients against transformers on the same weights and batches, in float32."""

import torch
from transformers import LlamaForCausalLM

from herd.train.open import make_trainer, open_recipe
from herd.train.packing import collate
from tests.train.conftest import find, place  # noqa: F401
from tests.train.test_train import recipe_of

TOLERANCE = 1e-5


def test_loss_and_gradients_of_fine_tuning(place, find):  # noqa: F811
    trainer = make_trainer(open_recipe(recipe_of("messages"), place, find), find, None, lambda **_: None)
    rows = [trainer.packer.row(256) for _ in range(4)]
    loss, _, count = trainer.gradients(rows, 256)
    theirs = LlamaForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    total = 0.0
    for piece in [piece for row in rows for piece in row]:
        one = collate(trainer.packer.sources, [[piece]], piece.stop - piece.start)
        tokens = torch.cat([one.tokens[0], one.targets[0, -1:]])
        labels = torch.cat([torch.tensor([-100]), torch.where(one.weights[0] > 0, one.targets[0], -100)])
        found = theirs(tokens[None], labels=labels[None]).loss * one.weights.sum() / count
        found.backward()
        total += found.item()
    assert abs(total - loss) < TOLERANCE
    names = {"output.weight": "lm_head.weight", "tok_embeddings.weight": "model.embed_tokens.weight",
             "layers.1.feed_forward.w2.weight": "model.layers.1.mlp.down_proj.weight",
             "layers.0.attention.wv.weight": "model.layers.0.self_attn.v_proj.weight",
             "norm.weight": "model.norm.weight"}  # fmt: skip
    mine, others = dict(trainer.model.named_parameters()), dict(theirs.named_parameters())
    for ours, other in names.items():
        assert (mine[ours].grad - others[other].grad).norm() < TOLERANCE * others[other].grad.norm(), ours
