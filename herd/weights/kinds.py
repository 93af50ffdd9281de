"""What a file is that is not what was expected: told by its first bytes, so that an error can say it."""

import json
import struct
from pathlib import Path

from herd.errors import FormatError

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"GGUF", "a GGUF file"),
    (b"tjgg", "a GGML file from before GGUF"), (b"lmgg", "a GGML file from before GGUF"), (b"fmgg", "a GGML file from before GGUF"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes"),
    (b"\x80\x02", "a Python pickle"), (b"\x80\x04", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file"), (b"\x1f\x8b", "a gzip archive"), (b"\x93NUMPY", "a numpy array"),
    (b"<!DOCTYPE", "an HTML page"), (b"<html", "an HTML page"),
    (b"{", "JSON text"),
)  # fmt: skip


def kind_of(path: Path) -> str | None:
    """What the file is, as the end of a sentence `it is ...`; None where its first bytes do not tell."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    found = next((kind for magic, kind in _STARTS if start.startswith(magic)), None)
    if found is not None:
        return found
    if is_sentencepiece(start):
        return "a SentencePiece tokenizer, as Llama 2 and Mistral have; Llama 3's is another kind"
    if len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size:
        return "a safetensors file"
    return None


def is_sentencepiece(start: bytes) -> bool:
    """Whether a file begins as a SentencePiece model: a protobuf whose first field is a piece, itself a text and a score."""
    return len(start) > 4 and start[0] == 0x0A and start[2] == 0x0A and start[1] - start[3] in (7, 9)


def unlike(path: Path, expected: str) -> FormatError:
    """The refusal of a file that is not the `expected` one, saying what it is where that can be told."""
    kind = kind_of(path)
    return FormatError(f"{path}: it is {kind}; expected {expected}" if kind else f"{path}: it is not {expected}")


def lora_adapter(folder: Path) -> FormatError:
    """The refusal of a LoRA adapter's folder, naming the model that it was made for."""
    try:
        base = json.loads((folder / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    return FormatError(
        f"{folder}: it is a LoRA adapter for {base or 'another model'}, which alone is no model; merge it into that model "
        f"first: herd merge MODEL {folder} OUT"
    )
