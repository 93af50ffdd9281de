"""The reference model against transformers, in float32."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from herd.family import shape
from herd.model.attention import Documents
from herd.model.llama import Transformer
from herd.model.load import from_checkpoint
from herd.rotary import RopeScaling
from herd.weights.convert import convert
from herd.weights.hf import config_to_hf
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint
from tests.texts import texts

# Largest absolute difference of logits.
TOLERANCE = 1e-4

PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at", "The quick brown fox",
    "In 1969, humans", "The largest planet is", "To be or not to be", "import numpy as np\n", "Roses are red,",
    "The meaning of life", "A triangle has", "Dear Sir or Madam,", "The mitochondria is", "for i in range(10):",
    "Paris is a city", "My favorite food is", "The stock market", "Photosynthesis is", "She opened the door and",
]  # fmt: skip


@pytest.fixture(scope="module")
def hf_folder(smollm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "smollm"
    convert(smollm, folder, "hf", "F32")
    return folder


@pytest.fixture(scope="module")
def theirs(hf_folder):
    return LlamaForCausalLM.from_pretrained(hf_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ours(smollm):
    return from_checkpoint(smollm.config, smollm.tensors, torch.float32)


@torch.inference_mode()
def test_logits_of_the_default_model(smollm, ours, theirs):
    for prompt in PROMPTS:
        tokens = torch.tensor([smollm.tokenizer.encode(prompt)])
        assert (ours(tokens) - theirs(tokens).logits).abs().max() < TOLERANCE


@torch.inference_mode()
def test_logits_of_long_texts_are_as_near_to_the_truth_as_transformers_own(smollm, ours, theirs):
    """On hundreds of tokens float32 noise alone reaches 1e-4, so the judge is transformers in float64."""
    batches = [torch.tensor([smollm.tokenizer.encode(texts()[name][:2000])]) for name in ("en", "python", "hi")]
    single = [theirs(tokens).logits for tokens in batches]
    double = [theirs.double()(tokens).logits for tokens in batches]
    theirs.float()
    for tokens, one, truth in zip(batches, single, double, strict=True):
        assert (ours(tokens) - truth).abs().max() < max(TOLERANCE, 2 * (one - truth).abs().max())


@torch.inference_mode()
def test_greedy_continuations_are_identical(smollm, ours, theirs):
    for prompt in PROMPTS:
        tokens = torch.tensor([smollm.tokenizer.encode(prompt)])
        expected = theirs.generate(tokens, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
        # one forward over the whole continuation gives each step's choice
        chosen = ours(expected[:, :-1]).argmax(-1)[0, tokens.shape[1] - 1 :]
        assert chosen.tolist() == expected[0, tokens.shape[1] :].tolist(), prompt


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"heads": 6, "kv_heads": 2, "head_dim": 32, "dim": 96, "tied": False},
        {"heads": 3, "kv_heads": 1, "head_dim": 64, "dim": 96, "ffn_dim": 100, "vocab": 301},
        {"rope_scaling": RopeScaling(32.0, 1.0, 4.0, 8192), "heads": 4, "kv_heads": 4},
    ],
)
@torch.inference_mode()
def test_random_shapes_with_scaled_rope_past_8192(change, tmp_path):
    config = dataclasses.replace(shape("tiny-3.1"), **change)
    checkpoint = random_checkpoint(config, tokenizer=False)
    convert(checkpoint, tmp_path / "hf", "hf")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    opened = open_checkpoint(tmp_path / "hf")
    assert opened.config == config
    ours = from_checkpoint(opened.config, opened.tensors, torch.float32)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, config.vocab, (1, 96), generator=generator)
    for start in (0, 8_150, 40_000, 130_000):
        positions = torch.arange(start, start + 96).unsqueeze(0)
        mine = ours(tokens, positions)
        other = theirs(tokens, position_ids=positions).logits
        assert (mine - other).abs().max() < TOLERANCE


@torch.inference_mode()
def test_documents_in_one_sequence_do_not_see_each_other():
    config = shape("tiny")
    model = from_checkpoint(config, random_checkpoint(config).tensors, torch.float32)
    a, b = torch.randint(0, config.vocab, (1, 11)), torch.randint(0, config.vocab, (1, 6))
    packed = model(torch.cat([a, b], dim=1), mask=Documents((11, 6)))
    torch.testing.assert_close(packed[:, :11], model(a), atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[:, 11:], model(b), atol=1e-5, rtol=0)


def test_the_config_we_write_is_the_one_transformers_reads():
    for name in ("llama-3.1-8b", "llama-3.2-1b", "smollm2-135m"):
        config = shape(name)
        read = LlamaConfig(**config_to_hf(config))
        assert read.num_key_value_heads == config.kv_heads
        assert read.head_dim == config.head_dim
    with torch.device("meta"):
        model = Transformer(shape("llama-3.1-8b"))
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248
