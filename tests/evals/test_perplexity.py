"""Perplexity and the report of what quantizing cost: equal to the reference in torch, and no number for a model that computes none."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from herd.engine.open import open_backend
from herd.errors import ConfigError, NotFiniteError
from herd.evals.perplexity import perplexity
from herd.evals.quantized import report
from herd.family import shape
from herd.model.load import from_checkpoint
from herd.weights.checkpoint import StoredTensor
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from herd.weights.quantize import write_quantized
from tests.models import random_checkpoint

TEXT = "The quick brown fox jumps over the lazy dog. " * 6  # 270 bytes, each a token


def changed(factor):
    """A random model whose output is `factor` times as large."""
    whole = random_checkpoint(shape("tiny"))
    output = StoredTensor.of(whole.tensors["output.weight"].float32() * np.float32(factor))
    return dataclasses.replace(whole, tensors={**whole.tensors, "output.weight": output})


def measured(checkpoint, backend="native"):
    opened = open_backend(checkpoint, backend, threads=1, cache_tokens=64)
    try:
        return perplexity(opened, checkpoint.tokenizer, TEXT, context=64)
    finally:
        opened.close()


@torch.no_grad()
def test_perplexity_is_that_of_the_reference():
    checkpoint = changed(1)
    model = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32)
    tokens = [256, *TEXT.encode()]
    losses = []
    for chunk in (tokens[i : i + 64] for i in range(0, 256, 64)):
        chunk[0] = 256  # the start of texts, in place of each chunk's first
        logits = torch.log_softmax(model(torch.tensor([chunk]))[0].double(), -1)
        losses += [-float(logits[k, chunk[k + 1]]) for k in range(32, 63)]
    expected = math.exp(sum(losses) / len(losses))
    for backend in ("native", "torch"):
        value, scored = measured(checkpoint, backend)
        assert scored == len(losses)
        assert abs(value / expected - 1) < 1e-4


@pytest.mark.parametrize("factor, word", [(np.nan, "NaN"), (np.inf, "NaN"), (1e6, "beyond")])
def test_a_model_that_computes_no_number_has_no_perplexity(factor, word):
    for backend in ("native", "torch"):
        with np.errstate(invalid="ignore"), pytest.raises(NotFiniteError, match=f"chunk 1: .*{word}"):
            measured(changed(factor), backend)


def test_a_text_shorter_than_a_chunk_is_refused():
    checkpoint = changed(1)
    opened = open_backend(checkpoint, "native", threads=1, cache_tokens=64)
    with pytest.raises(ConfigError, match="at least one chunk of 64"):
        perplexity(opened, checkpoint.tokenizer, "Hi", context=64)
    opened.close()


def test_the_command_and_the_report_agree(tmp_path):
    whole = changed(1)
    before = convert(whole, tmp_path / "before.gguf", "gguf")
    after = write_quantized(whole, tmp_path / "after.gguf", "Q8_0")
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 2)
    found = report(open_checkpoint(before), open_checkpoint(after), text.read_text(), chunks=1)
    assert found["bytes_after"] < 0.3 * found["bytes_before"]
    assert all(0 < error < 0.01 for error in found["relative_error"].values())
    done = subprocess.run(
        [sys.executable, "-m", "herd", "perplexity", after, text, "--chunks", "1", "--json"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["perplexity"] == pytest.approx(found["perplexity_after"], rel=1e-6)
