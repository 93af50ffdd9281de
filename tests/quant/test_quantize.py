"""Quantizing: plain rounding against the gguf package and torch, calibrated rounding against plain."""

import dataclasses
import json

import gguf
import numpy as np
import pytest
import torch

from herd.engine.calibrated import write
from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
from herd.errors import ConfigError, FormatError
from herd.family import ModelConfig
from herd.model.load import from_checkpoint
from herd.quant.dequantize import dequantize
from herd.quant.quantize import WRITTEN, quantize, quantize_calibrated, quantize_fp8, to_e4m3
from herd.weights.checkpoint import StoredTensor
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint

RNG = np.random.default_rng(3)
CONFIG = ModelConfig(layers=4, dim=64, ffn_dim=96, heads=4, kv_heads=2, head_dim=16, vocab=512, context=512)


@pytest.mark.parametrize("fmt", [fmt for fmt in WRITTEN if not fmt.endswith("_K")])
def test_plain_blocks_equal_the_gguf_packages(fmt):
    values = (RNG.standard_normal((64, 256)) * RNG.choice([1e-4, 0.02, 1, 50], (64, 1))).astype(np.float32)
    values[3] = 0
    values[5, :32] = 0.25
    theirs = gguf.quantize(values, gguf.GGMLQuantizationType[fmt])
    np.testing.assert_array_equal(quantize(values, fmt), theirs.view(np.uint8).reshape(64, -1))


def test_fp8_rounds_as_torch_and_scales_by_rows():
    values = np.concatenate(
        [RNG.standard_normal(20_000) * 100, RNG.standard_normal(5000) * 0.01, [0, -0.0, 448, -448, 0.0009765625]]
    )
    values = values.astype(np.float32)
    theirs = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(to_e4m3(values), theirs)
    matrix = RNG.standard_normal((8, 64)).astype(np.float32)
    matrix[2] *= 5000
    codes, scale = quantize_fp8(matrix)
    assert scale.shape == (8, 1)
    assert scale[2, 0] == pytest.approx(1200 / 448)
    back = dequantize(codes.reshape(-1), "F8_E4M3", (8, 64), scale)
    for row in (0, 1, 3):
        assert np.abs(back[row] - matrix[row]).max() <= np.abs(matrix[row]).max() / 16


@pytest.mark.parametrize("fmt", ["Q4_0", "Q4_1", "Q8_0"])
def test_calibrated_rounding_loses_less_on_the_inputs_it_saw(fmt):
    weights = RNG.standard_normal((48, 96)).astype(np.float32) * 0.05
    mixing = RNG.standard_normal((96, 96)) * np.exp(RNG.standard_normal(96))
    inputs = (RNG.standard_normal((4000, 96)) @ mixing).astype(np.float32)
    moments = inputs.T @ inputs

    def loss(raw):
        return float(((inputs @ (dequantize(raw.reshape(-1), fmt, weights.shape) - weights).T) ** 2).sum())

    plain, diagonal = loss(quantize(weights, fmt)), loss(quantize_calibrated(weights, fmt, np.diagonal(moments).copy()))
    full = loss(quantize_calibrated(weights, fmt, moments))
    assert full < {"Q8_0": 0.9}.get(fmt, 0.7) * plain
    if fmt == "Q4_0":
        assert diagonal < plain


@pytest.mark.parametrize("fmt", ["Q4_0", "Q4_1"])
def test_tuning_brings_answers_nearer_to_the_originals(fmt, tmp_path):
    """On text it was not tuned on, and through a file: codes stay, scales, minima and norms move."""
    source = random_checkpoint(CONFIG, seed=2)
    rng = np.random.default_rng(0)
    text = "".join(chr(c) for c in rng.choice(np.arange(97, 123), 40 * 512, p=rng.dirichlet(np.ones(26))))
    held_out = torch.tensor([source.tokenizer.encode(text[-512:])])
    wanted = torch.log_softmax(from_checkpoint(CONFIG, source.tensors, torch.float32)(held_out), -1).detach()

    @torch.inference_mode()
    def distance(checkpoint):
        found = torch.log_softmax(from_checkpoint(CONFIG, checkpoint.tensors, torch.float32)(held_out), -1)
        return float((wanted.exp() * (wanted - found)).sum(-1).mean())

    seen = []
    for name, tuned in (("plain", False), ("tuned", True)):
        path = tmp_path / f"{name}.gguf"
        write(source, path, fmt, text[:-512], tuned=tuned, progress=lambda what, *_: seen.append(what))
    plain, tuned = (open_checkpoint(tmp_path / f"{name}.gguf") for name in ("plain", "tuned"))
    assert set(seen) == {"calibrating", "rounding", "tuning", "writing"}
    assert distance(tuned) < 0.9 * distance(plain)
    moved = [n for n in plain.tensors if bytes(plain.tensors[n].raw()) != bytes(tuned.tensors[n].raw())]
    assert set(moved) == {n for n in plain.tensors if n != "tok_embeddings.weight" and n != "output.weight"}
    name, head = "layers.1.feed_forward.w1.weight", 2 if fmt == "Q4_0" else 4
    a, b = (np.frombuffer(c.tensors[name].raw(), np.uint8).reshape(-1, head + 16)[:, head:] for c in (plain, tuned))
    np.testing.assert_array_equal(a, b)


def test_a_gguf_file_of_each_format(tmp_path):
    source = random_checkpoint(CONFIG)
    for fmt in (*WRITTEN, "int4"):
        path = tmp_path / f"{fmt}.gguf"
        write(source, path, fmt)
        opened = open_checkpoint(path)
        name = "layers.1.feed_forward.w1.weight"
        # rows of 64 have no blocks of 256, and get what llama.cpp gives them
        expected = {"int4": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}.get(fmt, fmt)
        assert opened.tensors[name].format == expected
        assert opened.tensors["tok_embeddings.weight"].format == "Q8_0"
        values = source.tensors[name].float32()
        error = opened.tensors[name].float32() - values
        assert np.sqrt((error**2).mean() / (values**2).mean()) < {"Q8_0": 0.01}.get(fmt, 0.12)
        reader = gguf.GGUFReader(path)  # someone else's reader finds the same
        tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_gate.weight")
        np.testing.assert_array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), opened.tensors[name].float32())


def test_fp8_is_metas_recipe_and_reads_back(tmp_path):
    source = random_checkpoint(CONFIG, fmt="BF16")
    write(source, tmp_path / "fp8", "fp8")
    opened = open_checkpoint(tmp_path / "fp8")
    formats = {name: tensor.format for name, tensor in opened.tensors.items()}
    fp8 = {name for name, fmt in formats.items() if fmt == "F8_E4M3"}
    assert fp8 == {f"layers.{i}.feed_forward.{w}.weight" for i in (1, 2) for w in ("w1", "w2", "w3")}
    settings = json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "fbgemm_fp8"
    assert settings["activation_scale_ub"] == 1200.0
    assert "model.layers.0.mlp.gate_proj" in settings["modules_to_not_convert"]
    assert "model.layers.1.mlp.gate_proj" not in settings["modules_to_not_convert"]
    from transformers import FbgemmFp8Config

    read = FbgemmFp8Config(**{k: v for k, v in settings.items() if k != "quant_method"})
    assert read.modules_to_not_convert == settings["modules_to_not_convert"]


def test_what_cannot_be_quantized_is_one_clear_line(tmp_path):
    source = random_checkpoint(CONFIG)
    for fmt, out, word in (("Q3_X", "a.gguf", "Q3_X"), ("Q4_0", "folder", "gguf"), ("fp8", "a.gguf", "folder")):
        with pytest.raises(ConfigError, match=word):
            write(source, tmp_path / out, fmt)
    with pytest.raises(ConfigError, match="--calibrate"):
        write(source, tmp_path / "a.gguf", "Q4_0", tuned=True)
    with pytest.raises(ConfigError, match="Q4_0, Q4_1, Q8_0"):
        write(source, tmp_path / "a.gguf", "Q4_K_M", "abc " * 200, tuned=True)


def test_rows_that_no_block_divides_are_halves_and_said(tmp_path):
    source = random_checkpoint(dataclasses.replace(CONFIG, ffn_dim=100))
    said = []
    write(source, tmp_path / "a.gguf", "Q4_0", say=said.append)
    opened = open_checkpoint(tmp_path / "a.gguf")
    narrow = {name for name, tensor in opened.tensors.items() if tensor.format == "F16"}
    assert narrow == {f"layers.{i}.feed_forward.w2.weight" for i in range(4)}
    assert len(said) == 4
    assert "rows of 100 weights" in said[0]
    assert opened.tensors["layers.0.feed_forward.w1.weight"].format == "Q4_0"
    with open_engine(opened, "native") as engine:
        answer = engine.complete(Request(prompt=[1, 2, 3], params=SamplingParams(max_tokens=4, ignore_eos=True)))
    assert len(answer.tokens) == 4


@pytest.mark.parametrize("fmt", ["Q8_0", "Q4_0", "Q4_K", "fp8"])
@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (np.inf, "NaN or infinity"), (1e10, "too large")])
def test_quantizing_refuses_what_is_no_number(fmt, value, word, tmp_path):
    source = random_checkpoint(CONFIG)
    name = "layers.1.feed_forward.w3.weight"
    bad = source.tensors[name].float32().copy()
    bad[9, 50] = value
    source.tensors[name] = StoredTensor.of(bad)
    with pytest.raises(FormatError, match=rf"{name}, row 9: .*{word}"):
        write(source, tmp_path / ("out" if fmt == "fp8" else "out.gguf"), fmt)
    assert list(tmp_path.iterdir()) == []
