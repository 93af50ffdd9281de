"""GGUF files, versions 2 and 3: read and write. Format: ggml's `docs/gguf.md`.

Everything in a header is checked before it is believed: counts against the bytes that are left, offsets against the
file and each other, types against what the architecture needs.
"""

import re
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from herd.errors import FormatError, NoTokenizerError
from herd.family import ModelConfig
from herd.quant.formats import GGUF_TYPES, REFUSED_GGUF_TYPES, number_format
from herd.rotary import llama3_divisors
from herd.text._bpe import Strings
from herd.weights.checkpoint import Checkpoint, MappedFile, StoredTensor, check_tensors
from herd.weights.choose import part_name, part_of
from herd.weights.dialog_files import from_metadata, to_metadata
from herd.weights.gguf_config import config_from_gguf, config_to_gguf
from herd.weights.gguf_tokenizer import declared_in, declared_to_gguf, tokenizer_from_gguf, tokenizer_to_gguf
from herd.weights.kinds import unlike
from herd.weights.names import from_canonical, to_canonical

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_U16, _I32 = (2, "H"), (5, "i")
_ALIGNMENT = 32
# What describes a model and no file: not its name, which a checkpoint has anyway, its sampling or how numbers are held.
_ABOUT = re.compile(
    r"general\.(?!(architecture|name|alignment|file_type|quantization_version|sampling\..*)$)[a-z0-9_.]+"
)
_KINDS = {
    "adapter": "a LoRA adapter",
    "mmproj": "what a multimodal model sees with",
    "imatrix": "statistics for quantizing",
}


class _Cursor:
    """Reads little-endian values one after another, never past the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.at = 0
        self._view = file.data

    def value(self, code: str, what: str) -> Any:
        size = struct.calcsize("<" + code)
        self._need(size, what)
        (value,) = struct.unpack_from("<" + code, self._view, self.at)
        self.at += size
        return value

    def string(self, what: str) -> str:
        length = self.value("Q", what)
        self._need(length, what)
        text = bytes(self._view[self.at : self.at + length])
        self.at += length
        return text.decode("utf-8", errors="replace")

    def _need(self, count: int, what: str) -> None:
        if count > self.file.size - self.at:
            raise FormatError(f"{self.file.path}: truncated or damaged GGUF: {what} runs past the end of the file")

    def any(self, kind: int, what: str) -> Any:
        if kind in _SCALARS:
            return self.value(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            raise FormatError(f"{self.file.path}: {what} has unknown GGUF value type {kind}")
        item, count = self.value("I", what), self.value("Q", what)
        if item in _SCALARS:
            code = _SCALARS[item]
            self._need(count * struct.calcsize("<" + code), what)
            values = list(struct.unpack_from(f"<{count}{code}", self._view, self.at))
            self.at += count * struct.calcsize("<" + code)
            return values
        if item != _STRING:
            raise FormatError(f"{self.file.path}: {what} is an array of GGUF type {item}; expected strings or numbers")
        try:
            strings = Strings(self._view, self.at, count)
        except IndexError:
            self._need(self.file.size, what)
            raise
        self.at = strings.end
        return strings


def read_header(file: MappedFile) -> tuple[dict[str, Any], dict[str, StoredTensor], dict[str, bytes]]:
    """Metadata, the tensors by the file's own names, and what metadata say about the model, as bytes with their types."""
    cursor = _Cursor(file)
    if bytes(file.data[:4]) != b"GGUF":
        raise unlike(file.path, "a GGUF file")
    cursor.at = 4
    version = cursor.value("I", "version")
    if version in (2 << 24, 3 << 24):
        raise FormatError(
            f"{file.path}: a big-endian GGUF file; herd reads little-endian ones, which gguf's gguf_convert_endian.py makes"
        )
    if version not in (2, 3):
        raise FormatError(f"{file.path}: GGUF version {version}; herd reads versions 2 and 3, little-endian")
    tensor_count, key_count = cursor.value("Q", "tensor count"), cursor.value("Q", "key count")
    if tensor_count > file.size // 24 or key_count > file.size // 12:
        raise FormatError(
            f"{file.path}: damaged GGUF: claims {tensor_count:,} tensors and {key_count:,} keys in {file.size:,} bytes"
        )
    metadata: dict[str, Any] = {}
    about: dict[str, bytes] = {}
    for _ in range(key_count):
        key = cursor.string("a key")
        if key in metadata:
            raise FormatError(f"{file.path}: damaged GGUF: key {key!r} appears twice")
        start = cursor.at
        metadata[key] = cursor.any(cursor.value("I", key), key)
        if _ABOUT.fullmatch(key):
            about[key] = bytes(file.data[start : cursor.at])
    entries = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise FormatError(f"{file.path}: general.alignment is {alignment!r}; expected a power of two")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    end = 0
    for name, shape, fmt, offset in sorted(entries, key=lambda entry: entry[3]):
        if name in tensors:
            raise FormatError(f"{file.path}: damaged GGUF: tensor {name!r} appears twice")
        if offset % alignment or offset < end:
            raise FormatError(f"{file.path}: damaged GGUF: tensor {name!r} overlaps another or is not aligned")
        tensors[name] = file.tensor(fmt, shape, start + offset, f"tensor {name!r}")
        end = offset + tensors[name].nbytes
    return metadata, tensors, about


def _entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], str, int]:
    name = cursor.string("a tensor's name")
    path = cursor.file.path
    dimensions = cursor.value("I", name)
    if not 1 <= dimensions <= 4:
        raise FormatError(f"{path}: tensor {name!r} has {dimensions} dimensions; expected 1 or 2")
    sizes = [cursor.value("Q", name) for _ in range(dimensions)]
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 2 or not all(0 < size < 1 << 40 for size in sizes):
        raise FormatError(f"{path}: tensor {name!r} has sizes {sizes}; expected one or two, each above 0")
    kind, offset = cursor.value("I", name), cursor.value("Q", name)
    if kind not in GGUF_TYPES:
        known = REFUSED_GGUF_TYPES.get(kind, f"type {kind}")
        raise FormatError(f"{path}: tensor {name!r} is in format {known}, which herd does not read")
    return name, tuple(reversed(sizes)), GGUF_TYPES[kind].name, offset


def _read_parts(path: Path) -> tuple[list[MappedFile], dict[str, Any], dict[str, StoredTensor], dict[str, bytes]]:
    """The file, or all parts of the split file that it belongs to, as one `read_header`; metadata are the first part's."""
    base, _, count = part_of(path.name) or ("", 1, 1)
    paths = [path.with_name(part_name(base, i, count)) for i in range(1, count + 1)] if base else [path]
    missing = next((part for part in paths if not part.exists()), None)
    if base and missing is not None:
        raise FormatError(f"{path}: {missing.name} is missing beside it; a set is whole with all {count} parts")
    files = [MappedFile(part) for part in paths]
    metadata: dict[str, Any] = {}
    tensors: dict[str, StoredTensor] = {}
    about: dict[str, bytes] = {}
    for index, file in enumerate(files):
        keys, found, general = read_header(file)
        if index == 0:
            metadata, about = keys, general
        if (keys.get("split.no", 0), keys.get("split.count", 0) or 1) != (index, count):
            raise FormatError(
                f"{file.path}: says it is part {keys.get('split.no', 0)} of {keys.get('split.count', 0)} (from 0); expected "
                f"{index} of {count}: parts are named NAME-00001-of-0000N.gguf, as they were split"
            )
        for name in found.keys() & tensors:
            raise FormatError(f"{file.path}: tensor {name!r} is in another part too")
        tensors |= found
    if metadata.get("split.tensors.count", len(tensors)) != len(tensors):
        raise FormatError(f"{path}: its parts have {len(tensors)} tensors; expected {metadata['split.tensors.count']}")
    return files, metadata, tensors, about


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file of the llama architecture, all its parts if it is split; FormatError otherwise."""
    files, metadata, raw, about = _read_parts(path)
    where = str(path)
    if (kind := metadata.get("general.type", "model")) != "model":
        raise FormatError(f"{where}: holds {_KINDS.get(str(kind), f'a {kind}')}, which alone is no model")
    rope = raw.pop("rope_freqs.weight", None)
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in raw.items():
        canonical = to_canonical(name, "gguf")
        if name.startswith("rope_factors_"):
            raise FormatError(
                f"{where}: {name} is of longrope scaling, by which a position's angle depends on how long its sequence becomes; "
                "herd does not run it"
            )
        if canonical is None:
            raise FormatError(
                f"{where}: tensor {name} has no place in the Llama architecture; herd does not run this model"
            )
        tensors[canonical] = tensor
    config = config_from_gguf(metadata, tensors, rope, where)

    title = metadata.get("general.name")
    return Checkpoint(
        path, "gguf", config, check_tensors(config, tensors, where), lambda: tokenizer_from_gguf(metadata, where),
        **from_metadata(metadata), name=title if isinstance(title, str) and title.isprintable() else path.stem,
        about=about, load_declared=lambda: declared_in(metadata, config.vocab),
        files=tuple(file.path for file in files), maps=tuple(files),
    )  # fmt: skip


def gguf_parts(checkpoint: Checkpoint, formats: Mapping[str, str], limit: int | None) -> list[list[str]]:
    """Names of tensors for each file, whose data are at most `limit` bytes unless one tensor is larger; None: one file."""
    parts: list[list[str]] = [[]]
    size = 0
    for name in checkpoint.config.tensor_shapes():
        tensor = checkpoint.tensors[name]
        added = _padded(tensor.row_count * number_format(formats[name]).row_bytes(tensor.shape[-1]))
        if limit is not None and parts[-1] and size + added > limit:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += added
    return parts


def write_gguf(
    file: BinaryIO,
    checkpoint: Checkpoint,
    formats: Mapping[str, str],
    chunks: Callable[[str, StoredTensor, str], Iterator[bytes]],
    progress: Callable[[int], None],
    part: int = 0,
    parts: Sequence[Sequence[str]] = ((),),
) -> None:
    """Write `checkpoint` with tensor `name` in format `formats[name]`, its bytes made by `chunks`, one part at a time.

    Of a checkpoint split into several `parts`, each the names of its tensors, this is number `part`, from 0.
    """
    config = checkpoint.config
    metadata = _metadata(checkpoint) if part == 0 else {}
    rope = _rope_factors(config)
    names = parts[part] if len(parts) > 1 else list(config.tensor_shapes())
    if len(parts) > 1:
        count = sum(map(len, parts)) + (rope is not None)
        sizes = (("no", _U16, part), ("count", _U16, len(parts)), ("tensors.count", _I32, count))
        metadata |= {f"split.{key}": struct.pack("<I" + code, kind, value) for key, (kind, code), value in sizes}
    if part > 0:
        rope = None
    entries: list[tuple[str, tuple[int, ...], str]] = [
        (from_canonical(name, "gguf"), checkpoint.tensors[name].shape, formats[name]) for name in names
    ]
    if rope is not None:
        entries.insert(0, ("rope_freqs.weight", (len(rope) // 4,), "F32"))
    file.write(_header(metadata, entries))
    if rope is not None:
        file.write(rope.ljust(_padded(len(rope)), b"\0"))
    for name in names:
        written = 0
        for chunk in chunks(name, checkpoint.tensors[name], formats[name]):
            file.write(chunk)
            written += len(chunk)
            progress(len(chunk))
        file.write(b"\0" * (_padded(written) - written))
        checkpoint.forget()


def _header(metadata: Mapping[str, Any], entries: Sequence[tuple[str, tuple[int, ...], str]]) -> bytes:
    header = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(entries), len(metadata)))
    for key, value in metadata.items():
        header += _packed_string(key) + _packed(value)
    offset = 0
    for name, shape, fmt in entries:
        gguf_type = number_format(fmt).gguf_type
        assert gguf_type is not None, fmt
        header += _packed_string(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}QIQ", *reversed(shape), gguf_type, offset)
        rows = shape[0] if len(shape) == 2 else 1
        offset += _padded(rows * number_format(fmt).row_bytes(shape[-1]))
    return bytes(header.ljust(_padded(len(header)), b"\0"))


def _rope_factors(config: ModelConfig) -> bytes | None:
    """`rope_freqs.weight`, with which GGUF files say Llama 3.1's scaling."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    return array("f", llama3_divisors(config.head_dim, config.rope_theta, config.rope_scaling)).tobytes()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": checkpoint.name,
        **checkpoint.about,
        **config_to_gguf(config),
    }
    values |= to_metadata(checkpoint)
    try:
        return values | tokenizer_to_gguf(checkpoint.tokenizer, config.vocab)
    except NoTokenizerError:  # stays without one; "none" is llama.cpp's word
        return values | {"tokenizer.ggml.model": "none", **declared_to_gguf(checkpoint.declared, config.vocab)}


def _packed_string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _packed(value: Any) -> bytes:
    """A metadata value with its type; bytes are both already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _packed_string(value)
    head = struct.pack("<I", _ARRAY)
    if not value or isinstance(value[0], str):
        return head + struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_packed_string, value))
    if isinstance(value[0], float):
        return head + struct.pack(f"<IQ{len(value)}f", 6, len(value), *value)
    return head + struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
