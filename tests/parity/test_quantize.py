"""k-formats against llama-quantize's (golden/make_k_quants.py).

Scales come from a search whose near-ties fall otherwise when floats are added in another order. Tolerance: the squared
error within 2% of llama-quantize's on random weights, and every field where llama.cpp has it (its own blocks decode in
test_dequantize.py).
"""

from pathlib import Path

import numpy as np
import pytest

from herd.family import ModelConfig
from herd.quant.dequantize import dequantize
from herd.quant.formats import FORMATS as BLOCKS
from herd.quant.quantize import quantize
from herd.weights.checkpoint import Checkpoint
from herd.weights.quantize import quantized
from tests.models import random_checkpoint

FORMATS = ("Q4_K", "Q5_K", "Q6_K")
MATRIX = "layers.0.feed_forward.w1.weight"


def checkpoint() -> Checkpoint:
    return random_checkpoint(
        ModelConfig(layers=1, dim=512, ffn_dim=64, heads=2, kv_heads=1, head_dim=256, vocab=282, context=64), seed=4
    )


@pytest.mark.parametrize("fmt", FORMATS)
def test_blocks_are_llama_quantizes(fmt):
    golden = np.load(Path(__file__).with_name("golden") / "k_quants.npz")[fmt]
    values = checkpoint().tensors[MATRIX].float32()
    ours = quantize(values, fmt)
    size = BLOCKS[fmt].bytes
    assert (ours.reshape(-1, size) == golden.reshape(-1, size)).mean() > 0.7
    errors = [((dequantize(raw.reshape(-1), fmt, values.shape) - values) ** 2).sum() for raw in (ours, golden)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


def test_a_mixture_gives_each_tensor_the_format_that_llama_quantize_gives_it():
    shape = ModelConfig(layers=16, dim=256, ffn_dim=512, heads=2, kv_heads=1, head_dim=128, vocab=282, context=64)
    formats = {name: t.format for name, t in quantized(random_checkpoint(shape), "Q4_K_M").tensors.items()}
    more = {0, 1, 4, 7, 10, 13, 14, 15}  # of 16 layers, by llama-quantize's own log
    for layer in range(16):
        for part in ("attention.wv", "feed_forward.w2"):
            assert formats[f"layers.{layer}.{part}.weight"] == ("Q6_K" if layer in more else "Q4_K")
        assert formats[f"layers.{layer}.attention.wo.weight"] == "Q4_K"
    assert formats["tok_embeddings.weight"] == "Q6_K"
