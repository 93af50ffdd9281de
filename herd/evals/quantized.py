"""What quantizing cost a checkpoint: sizes, errors, speed, perplexity."""

from typing import Any

import numpy as np

from herd.engine.bench import bench
from herd.engine.open import open_backend
from herd.evals.perplexity import perplexity
from herd.weights.checkpoint import Checkpoint


def report(before: Checkpoint, after: Checkpoint, text: str | None, chunks: int = 40) -> dict[str, Any]:
    """Sizes, the error of each tensor, speed, and with a text the perplexity before and after."""
    errors = {}
    for name, tensor in after.tensors.items():
        if len(tensor.shape) != 2 or tensor.format == before.tensors[name].format:
            continue
        a, b = before.tensors[name].float32(), tensor.float32()
        errors[name] = float(np.sqrt(((a - b) ** 2).mean() / (a**2).mean()))
    found: dict[str, Any] = {
        "bytes_before": before.weight_bytes,
        "bytes_after": after.weight_bytes,
        "relative_error": errors,
    }
    for label, checkpoint in (("before", before), ("after", after)):
        backend = open_backend(checkpoint, cache_tokens=1024)
        speed = bench(backend, prompt=128, generate=32)
        found[f"decode_tokens_per_second_{label}"] = speed["decode_tokens_per_second"]
        if text is not None:
            found[f"perplexity_{label}"] = perplexity(backend, checkpoint.tokenizer, text, chunks=chunks)[0]
        backend.close()
    return found
