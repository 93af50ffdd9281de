"""Quantizing with what needs a model: calibration and tuned scales."""

from collections.abc import Callable
from pathlib import Path

from herd.errors import ConfigError, MissingDependencyError
from herd.progress import Progress, silent
from herd.quant.quantize import CALIBRATED
from herd.weights.checkpoint import Checkpoint
from herd.weights.convert import convert
from herd.weights.quantize import ALIASES, quantized, quantized_kind, write_quantized

_CHUNK, _CHUNKS = 512, 64


def _calibration(source: Checkpoint, text: str) -> list[list[int]]:
    """Chunks of up to 32,768 tokens in all from the whole length of `text`."""
    tokens = source.tokenizer.encode(text)
    chunks = [tokens[i : i + _CHUNK] for i in range(0, len(tokens) - 31, _CHUNK)]
    if not chunks:
        raise ConfigError("the calibration text has fewer than 32 tokens; give some pages of what the model will read")
    step = max(1, len(chunks) // _CHUNKS)
    return chunks[::step][:_CHUNKS]


def prepared(
    source: Checkpoint,
    fmt: str,
    text: str,
    embedding: str | None,
    tuned: bool,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """`quantized` with rounding for inputs like those on `text`, and if `tuned` with trained scales. Needs torch."""
    chunks = _calibration(source, text)
    try:
        from herd.model.calibrate import checkpoint_moments
        from herd.model.tune import tune
    except ImportError as error:
        raise MissingDependencyError("--calibrate runs the model in torch; pip install 'llama-herd[torch]'") from error
    small = quantized(source, fmt, checkpoint_moments(source, chunks, progress), embedding, say)
    if not tuned:
        return small
    if any(tensor.format == "F16" for name, tensor in small.tensors.items() if name.startswith("layers.")):
        raise ConfigError("--tune trains scales of blocks of 32, which rows of this model are no multiple of")
    return tune(source, small, [chunk for chunk in chunks if len(chunk) == len(chunks[0])], progress)


def write(
    source: Checkpoint,
    out: Path,
    fmt: str,
    calibration: str | None = None,
    embedding: str | None = None,
    *,
    tuned: bool = False,
    progress: Progress = silent,
    split: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """`write_quantized`, with `calibration`, a text, rounded for inputs like it, and if `tuned` with scales trained on it."""
    fmt = ALIASES.get(fmt, fmt)
    kind = quantized_kind(out, fmt)
    if calibration is not None and fmt not in CALIBRATED:
        raise ConfigError(f"--calibrate works with {', '.join(CALIBRATED)}, not {fmt}")
    if tuned and calibration is None:
        raise ConfigError("--tune learns from a text; give one with --calibrate FILE")
    if calibration is None:
        return write_quantized(source, out, fmt, embedding, progress=progress, split=split, say=say)
    small = prepared(source, fmt, calibration, embedding, tuned, progress, say)
    return convert(small, out, kind, progress=progress, split=split, say=say)
