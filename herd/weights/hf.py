"""Hugging Face folders: `config.json`, `model.safetensors` or its index, tokenizer files. FBGEMM FP8 included."""

import itertools
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from herd.errors import FormatError, NoTokenizerError, first_line
from herd.quant.formats import number_format
from herd.weights.checkpoint import Checkpoint, MappedFile, StoredTensor, check_tensors, permuted
from herd.weights.dialog_files import Dialog, read_dialog, write_dialog
from herd.weights.files import read_json
from herd.weights.hf_config import config_from_hf, config_to_hf
from herd.weights.kinds import kind_of, lora_adapter, unlike
from herd.weights.names import (
    from_canonical,
    halves_from_interleaved,
    interleaved_from_halves,
    is_rotary,
    to_canonical,
)
from herd.weights.sidecars import read_declared, read_tokenizer, write_declared, write_tokenizer

_DTYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F8_E4M3": "F8_E4M3"}
_MAX_HEADER = 100 << 20
_SHARD_BYTES = 5_000_000_000


class SafetensorsFile:
    """An open safetensors file: tensors by the file's own names. Format: huggingface/safetensors README."""

    def __init__(self, path: Path) -> None:
        self.file = MappedFile(path)
        if self.file.size < 8:
            raise unlike(path, "a safetensors file")
        (length,) = struct.unpack("<Q", self.file.bytes(0, 8, "the header").tobytes())
        if length > _MAX_HEADER or length > self.file.size - 8:
            if kind_of(path):
                raise unlike(path, "a safetensors file")
            raise FormatError(f"{path}: damaged safetensors: claims a header of {length:,} bytes")
        try:
            header = json.loads(self.file.bytes(8, length, "the header").tobytes(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: damaged safetensors header ({first_line(error)})") from error
        if not isinstance(header, dict):
            raise FormatError(f"{path}: damaged safetensors header; expected a JSON object")
        header.pop("__metadata__", None)
        self.tensors: dict[str, StoredTensor] = {}
        spans = []
        for name, entry in header.items():
            fmt, shape, (begin, end) = self._entry(name, entry)
            if fmt is None:
                continue
            size = (shape[0] if len(shape) == 2 else 1) * number_format(fmt).row_bytes(shape[-1])
            if end - begin != size:
                raise FormatError(f"{path}: damaged safetensors: {name} spans {end - begin:,} bytes; expected {size:,}")
            spans.append((begin, end, name))
            self.tensors[name] = self.file.tensor(fmt, shape, 8 + length + begin, f"tensor {name}")
        spans.sort()
        for (_, end, name), (begin, _, other) in itertools.pairwise(spans):
            if begin < end:
                raise FormatError(f"{path}: damaged safetensors: tensors {name} and {other} overlap")

    def _entry(self, name: str, entry: Any) -> tuple[str | None, tuple[int, ...], tuple[int, int]]:
        path = self.file.path
        if not isinstance(entry, dict):
            raise FormatError(f"{path}: damaged safetensors: entry {name!r} is not an object")
        dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        whole = (
            isinstance(shape, list)
            and isinstance(span, list)
            and len(span) == 2
            and all(type(n) is int and 0 <= n < 1 << 48 for n in [*shape, *span])
        )
        if not whole:
            raise FormatError(f"{path}: damaged safetensors: entry {name!r} has a wrong shape or span")
        if dtype not in _DTYPES:
            if to_canonical(name, "hf") is None:
                return None, (), (0, 0)  # a buffer of another type that no Llama needs
            raise FormatError(f"{path}: tensor {name} has dtype {dtype!r}; herd reads {', '.join(_DTYPES)}")
        sizes: list[int] = shape or [1]
        if len(sizes) > 2 or 0 in sizes:
            raise FormatError(f"{path}: tensor {name} has shape {shape}; expected a matrix or a vector")
        begin, end = span  # type: ignore[misc]
        return dtype, tuple(sizes), (begin, end)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice")
    return values


def open_hf(folder: Path) -> Checkpoint:
    """Open a Hugging Face folder of a Llama model; FormatError naming what it has that herd does not run."""
    settings = read_json(folder / "config.json")
    config = config_from_hf(settings, str(folder / "config.json"))
    paths = _weight_files(folder)
    files = [SafetensorsFile(path) for path in paths]
    raw: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            if name in raw:
                raise FormatError(f"{file.file.path}: tensor {name} is in another file too")
            raw[name] = tensor
    raw = _plain_names(raw)
    if config.tied and _has_head(raw):  # the file says what is tied, not the flag
        config = replace(config, tied=False)
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in raw.items():
        if name.endswith((".weight_scale", ".input_scale_ub", ".rotary_emb.inv_freq")):
            continue
        canonical = to_canonical(name, "hf")
        if canonical is None:
            raise FormatError(
                f"{folder}: tensor {name} has no place in the Llama architecture; herd does not run this model"
            )
        if canonical == "output.weight" and config.tied:
            continue
        if tensor.format == "F8_E4M3":
            tensor = _scaled(tensor, raw.get(name.removesuffix("weight") + "weight_scale"), name, str(folder))
        if is_rotary(canonical) and len(tensor.shape) == 2 and tensor.shape[0] % config.head_dim == 0:
            tensor = permuted(tensor, interleaved_from_halves(tensor.shape[0], config.head_dim))
        tensors[canonical] = tensor
    return Checkpoint(
        folder, "hf", config, check_tensors(config, tensors, str(folder)), lambda: read_tokenizer(folder),
        name=folder.name, load_declared=lambda: read_declared(folder, {}), files=tuple(paths),
        maps=tuple(f.file for f in files), **read_dialog(folder),
    )  # fmt: skip


def _plain_names(raw: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors by the names that LlamaForCausalLM has, of a file saved from a wrapped model or from the model inside."""
    for wrapper in ("_orig_mod.", "module."):
        if all(name.startswith(wrapper) for name in raw):
            raw = {name.removeprefix(wrapper): tensor for name, tensor in raw.items()}
    if "embed_tokens.weight" not in raw:
        return raw
    return {name if name.startswith(("lm_head.", "score.")) else f"model.{name}": raw[name] for name in raw}


def _has_head(raw: Mapping[str, StoredTensor]) -> bool:
    """Whether a file has an output head of its own, other than a copy of the embedding."""
    head, embedding = raw.get("lm_head.weight"), raw.get("model.embed_tokens.weight")
    if head is None or embedding is None:
        return head is not None
    if (head.format, head.shape) != (embedding.format, embedding.shape):
        return True
    parts = ((i, min(i + 4096, head.row_count)) for i in range(0, head.row_count, 4096))
    return any((head.rows(a, b) != embedding.rows(a, b)).any() for a, b in parts)


def _scaled(tensor: StoredTensor, scale: StoredTensor | None, name: str, where: str) -> StoredTensor:
    if (
        scale is None
        or scale.format not in ("F32", "BF16")
        or scale.shape not in ((tensor.shape[0], 1), (tensor.shape[0],))
    ):
        found = "none" if scale is None else f"{scale.format} {list(scale.shape)}"
        raise FormatError(
            f"{where}: FP8 tensor {name} needs a weight_scale of shape [{tensor.shape[0]}, 1]; found {found}"
        )
    kept = scale
    return StoredTensor(tensor.format, tensor.shape, tensor.rows, lambda: kept.float32().reshape(-1, 1))


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        if (folder / "adapter_config.json").exists():
            raise lora_adapter(folder)
        others = sorted(
            path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".h5", ".onnx")
        )
        found = f"; found {', '.join(others[:3])}, which herd does not read: save it as safetensors" if others else ""
        found = found or "; if a fetch of it was cut off, run it again"
        raise FormatError(f"{folder}: no model.safetensors and no model.safetensors.index.json{found}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FormatError(f"{index}: weight_map is missing; expected tensor names and their files")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if not re.fullmatch(r"[\w.\-]+\.safetensors", name):
            raise FormatError(f"{index}: names the file {name!r}; expected a .safetensors file of this folder")
        if not (folder / name).exists():
            raise FormatError(f"{folder}: {name} is missing; the checkpoint is incomplete, fetch it again")
    return [folder / name for name in names]


def write_hf(
    folder: Path,
    checkpoint: Checkpoint,
    formats: dict[str, str],
    chunks: Callable[[str, StoredTensor, str], Iterator[bytes]],
    progress: Callable[[int], None],
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Write safetensors, split into files of at most `shard_bytes` with an index, and the files beside them."""
    config = checkpoint.config
    shards: list[list[tuple[str, str, tuple[int, ...], Callable[[], Iterator[bytes]]]]] = [[]]
    size = total = 0
    for name, shape in config.tensor_shapes().items():
        tensor, fmt, written, told = checkpoint.tensors[name], formats[name], from_canonical(name, "hf"), name
        if is_rotary(name):
            tensor = permuted(tensor, halves_from_interleaved(shape[0], config.head_dim))
            told = written  # a row that is refused is told by its number in this order
        entries = [(written, fmt, shape, _chunker(chunks, told, tensor, fmt))]
        if fmt == "F8_E4M3":
            scale = tensor.scale
            assert scale is not None
            entries.append((entries[0][0] + "_scale", "F32", (shape[0], 1), _scale_chunker(scale)))
        added = sum(_nbytes(entry[1], entry[2]) for entry in entries)
        if shards[-1] and size + added > shard_bytes:
            shards.append([])
            size = 0
        shards[-1] += entries
        size += added
        total += added
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for file_name, shard in zip(names, shards, strict=True):
        _write_safetensors(folder / file_name, shard, progress, checkpoint.forget)
    if len(shards) > 1:
        places = {entry[0]: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    _write_sidecars(folder, checkpoint, formats)


def _chunker(
    chunks: Callable[[str, StoredTensor, str], Iterator[bytes]], name: str, tensor: StoredTensor, fmt: str
) -> Callable[[], Iterator[bytes]]:
    return lambda: chunks(name, tensor, fmt)


def _scale_chunker(scale: Callable[[], Any]) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([scale().astype("<f4").tobytes()])


def _nbytes(fmt: str, shape: tuple[int, ...]) -> int:
    return (shape[0] if len(shape) == 2 else 1) * number_format(fmt).row_bytes(shape[-1])


def _write_safetensors(
    path: Path,
    entries: list[tuple[str, str, tuple[int, ...], Callable[[], Iterator[bytes]]]],
    progress: Callable[[int], None],
    forget: Callable[[], None],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, fmt, shape, _ in entries:
        end = offset + _nbytes(fmt, shape)
        header[name] = {"dtype": fmt, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for *_, parts in entries:
            for part in parts():
                file.write(part)
                progress(len(part))
            forget()


def _write_sidecars(folder: Path, checkpoint: Checkpoint, formats: dict[str, str]) -> None:
    used = set(formats.values())
    main = max(used, key=lambda fmt: sum(1 for value in formats.values() if value == fmt))
    settings = config_to_hf(checkpoint.config, main)
    if "F8_E4M3" in used:
        kept = sorted(
            {
                from_canonical(name, "hf").removesuffix(".weight")
                for name, fmt in formats.items()
                if fmt != "F8_E4M3" and not name.endswith("norm.weight") and name != "tok_embeddings.weight"
            }
        )
        settings["quantization_config"] = {
            "quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": kept,
        }  # fmt: skip
    try:
        settings |= write_tokenizer(folder, checkpoint.tokenizer, checkpoint.config.context)
    except NoTokenizerError:  # stays without one
        settings |= write_declared(folder, checkpoint.declared)
    write_dialog(folder, Dialog.of(checkpoint))
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
