"""The model's one door: parts, masks, kernels, fresh weights, class heads."""

import dataclasses
import resource

import pytest
import torch
from transformers import LlamaForSequenceClassification

from herd.engine.open import open_backend
from herd.errors import ConfigError
from herd.family import shape
from herd.model.attention import Documents, attend
from herd.model.llama import Transformer
from herd.model.load import fresh, from_checkpoint, load_weights
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint

TINY = shape("tiny")
TIED = dataclasses.replace(TINY, tied=True)


def model_of(config=TINY):
    checkpoint = random_checkpoint(config)
    return from_checkpoint(config, checkpoint.tensors, torch.float32), checkpoint


def some_tokens(length, seed=0):
    return torch.randint(0, TINY.vocab, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [TINY, TIED])
@torch.no_grad()
def test_two_stages_are_the_whole_model(config):
    whole, checkpoint = model_of(config)
    first = Transformer(config, layers=range(1), output=False)
    second = Transformer(config, layers=range(1, 2), embedding=False)
    for stage in (first, second):
        load_weights(stage, checkpoint.tensors)
    assert {name.split(".")[1] for name in second.state_dict() if name.startswith("layers")} == {"1"}
    tokens = some_tokens(20)
    assert torch.equal(second(first(tokens)), whole(tokens))


@torch.no_grad()
def test_another_document_changes_no_bit():
    model, _ = model_of()
    mask = Documents((11, 30, 7, 16))
    tokens = some_tokens(64)
    other = tokens.clone()
    other[:, 11:41] = some_tokens(30, seed=1)
    before, after = model(tokens, mask=mask), model(other, mask=mask)
    changed = (before != after).any(-1)[0]
    assert not changed[:11].any()
    assert changed[11:41].all()
    assert not changed[41:].any()
    assert Documents.of([4] * 11 + [5] * 30 + [4] * 7 + [0] * 16) == mask


@torch.no_grad()
def test_documents_may_cross_rows_and_must_fill_them():
    model, _ = model_of()
    tokens = some_tokens(64)
    packed = model(tokens.view(2, 32), mask=Documents((20, 24, 20))).view(1, 64, -1)
    torch.testing.assert_close(packed[:, 20:44], model(tokens[:, 20:44]), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="63 tokens"):
        model(tokens, mask=Documents((63,)))
    for lengths in ((70, -6), (64, 0)):
        with pytest.raises(ConfigError, match="expected 1 or more"):
            Documents(lengths)


def test_a_mask_for_131072_tokens_takes_no_square_of_memory():
    q = torch.randn(1, 131_072, 1, 8)
    mask = Documents((2000,) * 65 + (1072,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert attend(q, q, q, mask).shape == q.shape
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 300e6  # the square: 17e9 bytes


@torch.no_grad()
def test_a_kernel_takes_the_plain_ones_place():
    model, _ = model_of()
    seen = []

    def kernel(q, k, v, mask):
        seen.append((q.shape, k.shape, mask))
        return attend(q, k, v)

    expected = model(some_tokens(9))
    for block in model.blocks:
        block.attention.kernel = kernel
    assert torch.equal(model(some_tokens(9), mask="anything"), expected)
    assert seen == [((1, 9, 4, 16), (1, 9, 2, 16), "anything")] * 2


def test_fresh_weights_depend_on_the_seed_alone():
    with torch.device("meta"):
        made = [Transformer(TIED) for _ in range(2)]
    for model, dtype in zip(made, (torch.float32, torch.bfloat16), strict=True):
        model.materialize("cpu", dtype)
        for name, parameter in model.named_parameters():
            fresh(name, parameter, TIED.layers, seed=3)
    wide, narrow = made
    assert wide.output.weight is wide.tok_embeddings.weight
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(wide.parameters(), narrow.parameters(), strict=True))
    assert abs(float(wide.tok_embeddings.weight.detach().std()) - 0.02) < 1e-3
    assert abs(float(wide.blocks[0].attention.wo.weight.detach().std()) - 0.01) < 1e-3  # two layers: 0.02 / sqrt(4)
    assert torch.equal(wide.norm.weight, torch.ones(TIED.dim))


def test_heads_of_a_function_and_of_nothing():
    model, _ = model_of()
    states = model(some_tokens(5), head=False)
    assert states.shape == (1, 5, TINY.dim)
    seen = model(some_tokens(5), head=lambda hidden, weight: (hidden, weight))
    assert torch.equal(seen[0], states)
    assert seen[1] is model.output.weight


@pytest.mark.parametrize("kind", ["hf", "gguf", "meta"])
@torch.no_grad()
def test_a_head_of_classes_survives_every_format(kind, tmp_path):
    config = dataclasses.replace(TINY, classes=3)
    checkpoint = random_checkpoint(config)
    out = tmp_path / ("m.gguf" if kind == "gguf" else "m")
    convert(checkpoint, out, kind)
    opened = open_checkpoint(out)
    assert opened.config.classes == 3
    assert not opened.config.tied
    ours = from_checkpoint(opened.config, opened.tensors, torch.float32)(some_tokens(12))
    assert ours.shape == (1, 12, 3)
    torch.testing.assert_close(ours, from_checkpoint(config, checkpoint.tensors, torch.float32)(some_tokens(12)))
    if kind == "hf":
        theirs = LlamaForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
        assert (theirs(some_tokens(12)).logits - ours[:, -1]).abs().max() < 1e-4
    for backend in ("native", "torch"):
        with pytest.raises(ConfigError, match="classes"):
            open_backend(opened, backend)


def test_what_is_missing_or_of_another_shape_is_named():
    for layers in (range(-1, 1), range(1, 3)):
        with pytest.raises(ConfigError, match=r"the model has 0 to 1"):
            Transformer(shape("tiny"), layers=layers)
    _, checkpoint = model_of()
    tensors = dict(checkpoint.tensors)
    del tensors["norm.weight"]
    with pytest.raises(ConfigError, match=r"norm\.weight"):
        from_checkpoint(TINY, tensors, torch.float32)
    with pytest.raises(ConfigError, match=r"\[512, 64\]; the model expects \[100, 64\]"):
        from_checkpoint(dataclasses.replace(TINY, vocab=100), checkpoint.tensors, torch.float32)
    with pytest.raises(ConfigError, match="tied"):
        dataclasses.replace(TIED, classes=2)
