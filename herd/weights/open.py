"""Open any checkpoint: look at what a path holds and hand it to the reader of that format."""

from pathlib import Path

from herd.errors import FormatError
from herd.weights.checkpoint import Checkpoint
from herd.weights.gguf import open_gguf


def open_checkpoint(path: Path) -> Checkpoint:
    """A GGUF file, or a folder of Meta's or Hugging Face's files, or a folder with one GGUF file in it.

    Raises FormatError naming what was found and what was expected.
    """
    if path.is_file():
        if path.suffix in (".safetensors", ".pth"):
            return open_checkpoint(path.parent)
        return open_gguf(path)
    if not path.is_dir():
        raise FormatError(f"{path}: no such file or folder; give a .gguf file or a folder of weights")
    if (path / "params.json").exists():
        from herd.weights.meta import open_meta

        return open_meta(path)
    if (path / "config.json").exists():
        from herd.weights.hf import open_hf

        return open_hf(path)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return open_gguf(files[0])
    expected = "expected params.json (Meta), config.json (Hugging Face) or one .gguf file"
    raise FormatError(f"{path}: no checkpoint found: {len(files)} .gguf files; {expected}")
