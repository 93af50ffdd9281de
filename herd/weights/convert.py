"""One checkpoint format to another, a few megabytes at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from herd.atomic import atomic_file, atomic_folder
from herd.errors import ConfigError
from herd.quant.dequantize import dequantize
from herd.quant.floats import FLOATS, encode
from herd.quant.formats import FORMATS, number_format
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.gguf import write_gguf
from herd.weights.hf import write_hf
from herd.weights.meta import write_meta

_CHUNK = 8 << 20
KINDS = ("meta", "hf", "gguf")
_HELD: dict[str, tuple[str, ...]] = {
    "meta": FLOATS,
    "hf": (*FLOATS, "F8_E4M3"),
    "gguf": tuple(f.name for f in FORMATS.values() if f.gguf_type is not None),
}


def target_kind(out: Path, to: str | None) -> str:
    """The format to write: `to`, or gguf for a name ending in .gguf; ConfigError otherwise."""
    if to is None:
        if out.suffix == ".gguf":
            return "gguf"
        raise ConfigError(f"{out}: which format? add --to meta or --to hf, or name a .gguf file")
    if to not in KINDS:
        raise ConfigError(f"--to {to}: unknown; expected one of {', '.join(KINDS)}")
    return to


def convert(
    source: Checkpoint,
    out: Path,
    kind: str,
    weights: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write `source` to `out` as `kind` (meta, hf, gguf), matrices in number format `weights` (F32, F16 or BF16).

    Without `weights` every tensor keeps its format where the target has it, and becomes BF16 where it has not.
    `progress` is called with the bytes written since. Raises ConfigError when `out` exists or cannot hold the format.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; give another name or remove it")
    if weights is not None and weights not in FLOATS:
        raise ConfigError(
            f"--format {weights}: expected one of {', '.join(FLOATS)}; smaller formats are made by quantizing"
        )
    formats = _formats(source, kind, weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind == "gguf":
        with atomic_file(out) as temporary, temporary.open("wb") as file:
            write_gguf(file, source, formats, _chunks, progress)
            file.flush()
        return
    with atomic_folder(out) as folder:
        (write_hf if kind == "hf" else write_meta)(folder, source, formats, _chunks, progress)


def _formats(source: Checkpoint, kind: str, weights: str | None) -> dict[str, str]:
    """The number format of each tensor in the target.

    Norms are F32 in GGUF, as llama.cpp needs them. Elsewhere F32 norms beside 16-bit matrices take the matrices'
    format when that loses nothing, so that going through GGUF changes no bit.
    """
    formats: dict[str, str] = {}
    for name, tensor in source.tensors.items():
        fmt = weights or tensor.format
        formats[name] = fmt if fmt in _HELD[kind] else "BF16"
    matrices = {formats[name] for name, tensor in source.tensors.items() if len(tensor.shape) == 2}
    main = next(iter(matrices)) if len(matrices) == 1 else "F32"
    for name, tensor in source.tensors.items():
        if len(tensor.shape) == 2:
            continue
        if kind == "gguf":
            formats[name] = "F32"
        elif tensor.format == "F32":
            values = tensor.float32()
            lossless = main in ("BF16", "F16") and np.array_equal(
                dequantize(encode(values, main), main, values.shape), values
            )
            formats[name] = main if lossless else "F32"
    return formats


def _chunks(tensor: StoredTensor, fmt: str) -> Iterator[bytes]:
    """The bytes of a tensor in `fmt`, some rows at a time."""
    row_bytes = max(number_format(fmt).row_bytes(tensor.shape[-1]), number_format("F32").row_bytes(tensor.shape[-1]))
    step = max(1, _CHUNK // row_bytes)
    same = tensor.format == fmt and (tensor.scale is None or fmt == "F8_E4M3")
    for first in range(0, tensor.row_count, step):
        last = min(first + step, tensor.row_count)
        if same:
            yield np.ascontiguousarray(tensor.rows(first, last)).tobytes()
        else:
            yield encode(tensor.float32(first, last), fmt).tobytes()
