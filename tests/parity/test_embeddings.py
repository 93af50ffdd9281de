"""Embeddings against the hidden states of transformers, pooled as sentence-transformers does."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from herd.engine.embed import embed
from herd.engine.open import open_engine
from herd.weights.convert import convert
from tests.texts import texts

# Largest distance of two vectors of length 1. The native backend multiplies 8-bit activations, torch does not.
TOLERANCE = {"native": 0.1, "torch": 1e-4}
TEXTS = ["Hi", "The capital of France is Paris.", "def fibonacci(n):\n", texts()["en"][:3000], texts()["hi"][:900]]


@pytest.fixture(scope="module")
def theirs(smollm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "smollm"
    convert(smollm, folder, "hf", "F32")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def states(text: str) -> np.ndarray:
        return model.model(torch.tensor([smollm.tokenizer.encode(text)])).last_hidden_state[0].double().numpy()

    return [states(text) for text in TEXTS]


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_embeddings_are_those_of_transformers(smollm, theirs, backend):
    with open_engine(smollm, backend, cache_tokens=2048) as engine:
        for pooling in ("mean", "last"):
            wanted = np.stack([s.mean(0) if pooling == "mean" else s[-1] for s in theirs])
            raw = embed(engine, TEXTS, pooling=pooling, normalize=False)
            assert np.allclose(np.linalg.norm(raw, axis=1), np.linalg.norm(wanted, axis=1), rtol=TOLERANCE[backend])
            found = embed(engine, TEXTS, pooling=pooling)
            assert found.dtype == np.float32
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
            far = np.linalg.norm(found - wanted, axis=1)
            assert far.max() < TOLERANCE[backend]
