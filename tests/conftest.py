"""Fixtures that are costly to make, made once a process."""

import importlib.util
from pathlib import Path

import pytest

from herd.cli.common import open_model
from herd.text.meta import TiktokenTokenizer
from herd.weights.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def smollm() -> Checkpoint:
    """SmolLM2-135M-Instruct, the model that `make chat` talks with; fetched once into the user's cache."""
    return open_model("smollm2-135m")


@pytest.fixture(scope="session")
def meta_tokenizer_file() -> Path:
    """Meta's tokenizer.model, as the llama-models package carries it."""
    spec = importlib.util.find_spec("llama_models")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "llama3" / "tokenizer.model"


@pytest.fixture(scope="session")
def meta_tokenizer(meta_tokenizer_file: Path) -> TiktokenTokenizer:
    """herd's reader of that file."""
    return TiktokenTokenizer.from_file(meta_tokenizer_file)
