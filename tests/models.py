"""Checkpoints for tests: the default model, and random ones of any shape."""

from pathlib import Path

import numpy as np

from herd.errors import NoTokenizerError
from herd.family import ModelConfig
from herd.text.gguf import GGUFTokenizer
from herd.text.tokenizer import Declared, Tokenizer
from herd.weights.checkpoint import Checkpoint, StoredTensor


def byte_tokenizer() -> Tokenizer:
    """Tokens 0 to 255 are bytes, and Llama 3's special tokens follow."""
    from herd.text.vocabulary import GGUF_CONTROL, LLAMA3_SPECIAL, byte_alphabet

    tokens = [*byte_alphabet(), *LLAMA3_SPECIAL]
    types = [1] * 256 + [GGUF_CONTROL] * len(LLAMA3_SPECIAL)
    return GGUFTokenizer(
        pre="llama-bpe", tokens=tokens, types=types, merges=[], declared=Declared(bos=256, add_bos=True)
    )


def no_tokenizer() -> Tokenizer:
    raise NoTokenizerError("this checkpoint has no tokenizer")


def random_checkpoint(config: ModelConfig, seed: int = 0, fmt: str = "F32", tokenizer: bool = True) -> Checkpoint:
    """Weights of a size that keeps activations near 1, in F32 or BF16."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            values = (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        tensors[name] = stored(values, fmt)
    return Checkpoint(
        Path("random"), "random", config, tensors, byte_tokenizer if tokenizer else no_tokenizer, name="random"
    )


def stored(values: np.ndarray, fmt: str = "F32") -> StoredTensor:
    """An array as a checkpoint's tensor."""
    return StoredTensor.of(values.astype(np.float32), fmt)
