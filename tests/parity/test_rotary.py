"""Rotary scalings against transformers' frequencies and models, and against llama.cpp on the same GGUF files."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from herd.engine.backends.native import NativeBackend
from herd.errors import ConfigError, FormatError
from herd.family import shape
from herd.model.load import from_checkpoint
from herd.rotary import RopeScaling, frequencies
from herd.weights.checkpoint import Checkpoint
from herd.weights.convert import convert
from herd.weights.hf_config import config_from_hf, config_to_hf
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint
from tests.native.test_decoder import log_probabilities

SCALINGS = {
    "none": None,
    "llama3": RopeScaling(8.0, 1.0, 4.0, 256),
    "linear": RopeScaling(4.0, kind="linear"),
    "yarn": RopeScaling(4.0, kind="yarn", original_context=512),
    "yarn-loud": RopeScaling(16.0, kind="yarn", original_context=256, attention_factor=1.75),
}
FREQUENCY_TOLERANCE = 1e-6  # relative; float32 powers of two libraries
LOGPROB_TOLERANCE = 2e-3  # llama.cpp turns pair after pair by a product of float32s


def model(scaling: RopeScaling | None) -> Checkpoint:
    """Two layers over bytes and Llama 3's special tokens, sharp enough that positions matter."""
    config = dataclasses.replace(
        shape("tiny"), vocab=512, head_dim=32, heads=2, kv_heads=1, dim=96, rope_theta=10_000.0, rope_scaling=scaling
    )
    return random_checkpoint(config, seed=7)


def long_prompt() -> list[int]:
    return [int(i) for i in np.random.default_rng(3).integers(0, 256, 1500)]


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("head_dim, theta", [(64, 10_000.0), (128, 500_000.0), (80, 1e6)])
def test_frequencies_are_transformers(name, head_dim, theta):
    config = dataclasses.replace(
        shape("llama-3.2-1b"), head_dim=head_dim, rope_theta=theta, rope_scaling=SCALINGS[name]
    )
    theirs = LlamaRotaryEmbedding(LlamaConfig(**config_to_hf(config)))
    ours = torch.tensor(frequencies(head_dim, theta, config.rope_scaling))
    torch.testing.assert_close(ours, theirs.inv_freq, rtol=FREQUENCY_TOLERANCE, atol=0)
    gain = 1.0 if config.rope_scaling is None else config.rope_scaling.gain
    assert gain == pytest.approx(theirs.attention_scaling, rel=1e-9)


@pytest.mark.parametrize(
    "rope",
    [
        {"type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096, "mscale": 0.7, "mscale_all_dim": 1.2},
        {"rope_type": "yarn", "factor": 3.0, "beta_fast": 20, "beta_slow": 2, "truncate": False},
        {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": True, "beta_fast": None},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 77_000.0,
         "original_max_position_embeddings": 8192},
        {"rope_type": "default", "rope_theta": 12_345.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_every_spelling_of_a_config_means_what_transformers_reads(rope, key):
    settings = {**config_to_hf(shape("llama-3.2-1b")), "rope_theta": 50_000.0, "max_position_embeddings": 32_768}
    settings.pop("rope_scaling")
    config = config_from_hf({**settings, key: rope}, "here")
    theirs = LlamaRotaryEmbedding(LlamaConfig(**{**settings, key: dict(rope)}))
    ours = torch.tensor(frequencies(config.head_dim, config.rope_theta, config.rope_scaling))
    torch.testing.assert_close(ours, theirs.inv_freq, rtol=FREQUENCY_TOLERANCE, atol=0)
    gain = 1.0 if config.rope_scaling is None else config.rope_scaling.gain
    assert gain == pytest.approx(theirs.attention_scaling)
    written = config_to_hf(config)
    assert config_from_hf(written, "there") == config


@pytest.mark.parametrize("name", SCALINGS)
def test_a_hf_folder_and_both_backends_agree_with_transformers(name, tmp_path):
    checkpoint = model(SCALINGS[name])
    convert(checkpoint, tmp_path / "hf", "hf")
    opened = open_checkpoint(tmp_path / "hf")
    assert opened.config == checkpoint.config
    tokens = long_prompt()[:700]
    with torch.inference_mode():
        theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
        expected = theirs(torch.tensor([tokens])).logits
        ours = from_checkpoint(opened.config, opened.tensors, torch.float32)(torch.tensor([tokens]))
    assert (ours - expected).abs().max() < 2e-4
    native = log_probabilities(NativeBackend(opened, threads=2), tokens)
    targets = expected.log_softmax(-1)[0, :-1].gather(1, torch.tensor(tokens[1:]).unsqueeze(1))[:, 0].numpy()
    assert np.abs(native - targets).max() < 2e-2  # a cache of halves; yarn-loud triples scores


@pytest.mark.parametrize("name", SCALINGS)
def test_a_gguf_file_means_what_llama_cpp_reads(name, tmp_path):
    """golden/rope.json holds llama.cpp's likeliest tokens after some 1,400 (golden/make_rope.py)."""
    length, golden = json.loads((Path(__file__).parent / "golden" / "rope.json").read_text())[name]
    convert(model(SCALINGS[name]), tmp_path / "x.gguf", "gguf")
    opened = open_checkpoint(tmp_path / "x.gguf")
    assert opened.config.rope_scaling == SCALINGS[name]
    with torch.inference_mode():
        ours = from_checkpoint(opened.config, opened.tensors, torch.float32)(torch.tensor([long_prompt()[:length]]))
    found = ours[0, -1].log_softmax(-1)
    assert [float(found[token]) for token, _ in golden] == pytest.approx([x for _, x in golden], abs=LOGPROB_TOLERANCE)


def test_what_a_format_cannot_say_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"params\.json cannot say yarn"):
        convert(model(SCALINGS["yarn"]), tmp_path / "meta", "meta")
    odd = dataclasses.replace(SCALINGS["yarn"], truncate=False)
    with pytest.raises(FormatError, match="without truncation"):
        convert(model(odd), tmp_path / "x.gguf", "gguf")
    with pytest.raises(FormatError, match="attention factor"):
        convert(model(dataclasses.replace(SCALINGS["linear"], attention_factor=2.0)), tmp_path / "hf", "hf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, word",
    [({"kind": "dynamic"}, "dynamic"), ({"factor": 0.5}, "factor"), ({"beta_fast": 1.0}, "slow"),
     ({"kind": "yarn", "attention_factor": -1.0}, "impossible")],
)  # fmt: skip
def test_impossible_scalings_are_refused(change, word):
    with pytest.raises(ConfigError, match=word):
        RopeScaling(**change)
    with pytest.raises(ConfigError, match="above 1"):
        dataclasses.replace(shape("tiny"), rope_theta=1.0, rope_scaling=RopeScaling(kind="yarn"))
