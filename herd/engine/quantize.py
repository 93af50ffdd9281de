"""A checkpoint -> a smaller one: which tensors get which format, calibration, and a report of what it cost."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from herd.engine.bench import bench
from herd.engine.open import open_backend
from herd.engine.perplexity import perplexity
from herd.errors import ConfigError, MissingDependencyError
from herd.quant.quantize import CALIBRATED, WRITTEN, quantize, quantize_calibrated, quantize_fp8
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.convert import convert

ALIASES = {"int8": "Q8_0", "int4": "Q4_0", "fp8": "F8_E4M3"}
# llama.cpp's mixtures: a format, and the one that values and half of the layers' down projections have instead.
MIXTURES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
# What a row gets that blocks of 256 do not divide.
_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_CHUNK, _CHUNKS = 512, 64


def quantized(
    source: Checkpoint,
    fmt: str,
    moments: Mapping[str, NDArray[np.float32]] | None = None,
    embedding: str | None = None,
) -> Checkpoint:
    """`source` with its matrices in `fmt`; tensors are quantized as they are read.

    FP8 is Meta's recipe: the feed-forward matrices of all layers but the first and the last. Other formats take all
    matrices of the layers; embedding and output head are in format `embedding`, by default Q8_0, or Q6_K with a
    k-format, as llama.cpp keeps them.
    """
    fmt = ALIASES.get(fmt, fmt)
    mixture = MIXTURES.get(fmt)
    fmt = mixture[0] if mixture else fmt
    embedding = embedding or ("Q6_K" if fmt.endswith("_K") else "Q8_0")
    if embedding not in WRITTEN:
        raise ConfigError(f"--embedding {embedding}: expected one of {', '.join(WRITTEN)}")
    if fmt != "F8_E4M3" and fmt not in WRITTEN:
        raise ConfigError(f"--format {fmt}: expected one of {', '.join((*WRITTEN, *MIXTURES, 'F8_E4M3', *ALIASES))}")
    config = source.config
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in source.tensors.items():
        inside = name.startswith("layers.") and len(tensor.shape) == 2
        if fmt == "F8_E4M3":
            middle = not name.startswith(("layers.0.", f"layers.{config.layers - 1}."))
            tensors[name] = _fp8(tensor) if inside and middle and ".feed_forward." in name else tensor
        elif inside or name in ("tok_embeddings.weight", "output.weight"):
            target = fmt if inside else embedding
            if inside and mixture and _matters(name, config.layers):
                target = mixture[1]
            if tensor.shape[1] % 256:
                target = _NARROW.get(target, target)
            if tensor.shape[1] % 32:
                raise ConfigError(
                    f"tensor {name} has rows of {tensor.shape[1]} weights; {target} needs a multiple of 32"
                )
            tensors[name] = _blocks(tensor, target, None if moments is None else moments.get(name))
        else:
            tensors[name] = tensor
    return replace(source, tensors=tensors)


def _matters(name: str, layers: int) -> bool:
    """Whether llama.cpp's mixtures give a matrix more bits: of values and down projections the first and last eighth of
    the layers, and every third between (its use_more_bits).
    """
    layer = int(name.split(".")[1])
    chosen = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return chosen and name.endswith(("attention.wv.weight", "feed_forward.w2.weight"))


def _blocks(tensor: StoredTensor, fmt: str, moments: NDArray[np.float32] | None) -> StoredTensor:
    def rows(first: int, last: int) -> NDArray[np.uint8]:
        values = tensor.float32(first, last)
        return quantize(values, fmt) if moments is None else quantize_calibrated(values, fmt, moments)

    return tensor if tensor.format == fmt else StoredTensor(fmt, tensor.shape, rows)


def _fp8(tensor: StoredTensor) -> StoredTensor:
    def rows(first: int, last: int) -> NDArray[np.uint8]:
        return quantize_fp8(tensor.float32(first, last))[0]

    def scale() -> NDArray[np.float32]:
        step = max(1, (8 << 20) // (4 * tensor.shape[1]))
        parts = range(0, tensor.row_count, step)
        return np.concatenate([quantize_fp8(tensor.float32(a, min(a + step, tensor.row_count)))[1] for a in parts])

    return StoredTensor("F8_E4M3", tensor.shape, rows, scale)


def _calibration(source: Checkpoint, text: str) -> list[list[int]]:
    """Chunks of up to 32,768 tokens in all from the whole length of `text`."""
    tokens = source.tokenizer.encode(text)
    chunks = [tokens[i : i + _CHUNK] for i in range(0, len(tokens) - 31, _CHUNK)]
    if not chunks:
        raise ConfigError("the calibration text has fewer than 32 tokens; give some pages of what the model will read")
    step = max(1, len(chunks) // _CHUNKS)
    return chunks[::step][:_CHUNKS]


Steps = Callable[[str, int, int], None]
"""What is going on, steps done, steps in all."""


def prepared(
    source: Checkpoint, fmt: str, text: str, embedding: str | None, tuned: bool, steps: Steps = lambda *_: None
) -> Checkpoint:
    """`quantized` with rounding for inputs like those on `text`, and if `tuned` with trained scales. Needs torch."""
    try:
        from herd.model.calibrate import checkpoint_moments
        from herd.model.tune import tune
    except ImportError as error:
        raise MissingDependencyError("--calibrate runs the model in torch; pip install 'llama-herd[torch]'") from error
    chunks = _calibration(source, text)
    done = iter(range(1, len(chunks) + 1))
    moments = checkpoint_moments(source, chunks, lambda _: steps("calibrating", next(done), len(chunks)))
    small = quantized(source, fmt, moments, embedding)
    if not tuned:
        return small
    return tune(source, small, [chunk for chunk in chunks if len(chunk) == len(chunks[0])], steps)


def write(
    source: Checkpoint,
    out: Path,
    fmt: str,
    calibration: str | None = None,
    embedding: str | None = None,
    *,
    tuned: bool = False,
    steps: Steps = lambda *_: None,
) -> None:
    """Quantize to a .gguf file, or for FP8 to a Hugging Face folder; `calibration` is a text, `tuned` trains scales on it."""
    fmt = ALIASES.get(fmt, fmt)
    fp8 = fmt == "F8_E4M3"
    if fp8 == (out.suffix == ".gguf"):
        raise ConfigError(f"{out}: F8_E4M3 is written as a Hugging Face folder, the other formats as a .gguf file")
    if calibration is not None and fmt not in CALIBRATED:
        raise ConfigError(f"--calibrate works with {', '.join(CALIBRATED)}, not {fmt}")
    if tuned and calibration is None:
        raise ConfigError("--tune learns from a text; give one with --calibrate FILE")
    if calibration is None:
        small = quantized(source, fmt, None, embedding)
    else:
        small = prepared(source, fmt, calibration, embedding, tuned, steps)
    written, total = 0, small.weight_bytes

    def count(more: int) -> None:
        nonlocal written
        written += more
        steps("writing", written, total)

    convert(small, out, "hf" if fp8 else "gguf", progress=count)


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
