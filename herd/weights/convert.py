"""One checkpoint format to another, a few megabytes at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from herd.atomic import atomic_files, atomic_folder
from herd.errors import ConfigError
from herd.progress import Progress, silent
from herd.quant.dequantize import dequantize
from herd.quant.finite import broken_row
from herd.quant.floats import FLOATS, encode
from herd.quant.formats import FORMATS, number_format
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.choose import part_name
from herd.weights.finite import check_finite, not_finite, too_large
from herd.weights.gguf import gguf_parts, write_gguf
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
    progress: Progress = silent,
    split: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write `source` to `out` as `kind` (meta, hf, gguf), matrices in number format `weights` (F32, F16 or BF16).

    Without `weights` every tensor keeps its format where the target has it, and becomes BF16 where it has not. `split`:
    GGUF as files of at most so many bytes of weights, named like llama.cpp's. `say` is told what is lost. Returns what was written, of several files
    the first. Raises ConfigError when `out` exists or cannot hold the format, FormatError naming tensor and row for
    weights that are not finite or that the format cannot hold.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    if weights is not None and weights not in FLOATS:
        raise ConfigError(
            f"--format {weights}: expected one of {', '.join(FLOATS)}; smaller formats are made by quantizing"
        )
    if split is not None and (kind != "gguf" or split <= 0):
        raise ConfigError(
            "--split: only GGUF is split, into files of a size above 0; Hugging Face's are cut at 5 GB anyway"
        )
    source.check_writable()
    formats = _formats(source, kind, weights)
    parts = gguf_parts(source, formats, split) if kind == "gguf" else []
    base = out.name.removesuffix(".gguf")
    outs = [out.with_name(part_name(base, i + 1, len(parts))) for i in range(len(parts))] if len(parts) > 1 else [out]
    for path in outs:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ConfigError(f"{path}: exists already; give another name or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    done, total = 0, sum(_bytes(tensor, formats[name]) for name, tensor in source.tensors.items())

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress("writing", done, total)

    if kind != "gguf":
        if source.about:
            say(f"left out, as only GGUF files have a place for them: {', '.join(source.about)}")
        with atomic_folder(out) as folder:
            (write_hf if kind == "hf" else write_meta)(folder, source, formats, _chunks, count)
        return out
    with atomic_files(outs) as temporaries:
        for part, temporary in enumerate(temporaries):
            with temporary.open("wb") as file:
                write_gguf(file, source, formats, _chunks, count, part, parts)
    return outs[0]


def _bytes(tensor: StoredTensor, fmt: str) -> int:
    return tensor.row_count * number_format(fmt).row_bytes(tensor.shape[-1])


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


def _chunks(name: str, tensor: StoredTensor, fmt: str) -> Iterator[bytes]:
    """The bytes of tensor `name` in `fmt`, some rows at a time; FormatError for the first row that is not finite."""
    row_bytes = max(number_format(fmt).row_bytes(tensor.shape[-1]), number_format("F32").row_bytes(tensor.shape[-1]))
    step = max(1, _CHUNK // row_bytes)
    same = tensor.format == fmt and (tensor.scale is None or fmt == "F8_E4M3")
    if tensor.scale is not None and (row := broken_row(tensor.scale().view(np.uint8), "F32")) is not None:
        raise not_finite(name, row)
    for first in range(0, tensor.row_count, step):
        last = min(first + step, tensor.row_count)
        if same:
            raw = np.ascontiguousarray(tensor.rows(first, last))
        else:
            values = np.atleast_2d(tensor.float32(first, last))
            check_finite(name, values, first)
            raw = encode(values, fmt)
        if (row := broken_row(raw, fmt)) is not None:
            raise not_finite(name, first + row) if same else too_large(name, first + row, values[row], fmt)
        yield raw.tobytes()
