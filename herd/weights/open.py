"""Open any checkpoint: look at what a path holds and hand it to the reader of that format."""

import os
from pathlib import Path

from herd.errors import FormatError
from herd.weights.checkpoint import Checkpoint
from herd.weights.choose import gguf_models
from herd.weights.gguf import open_gguf
from herd.weights.kinds import kind_of, lora_adapter, unlike


def open_checkpoint(path: Path) -> Checkpoint:
    """A GGUF file, or a folder of Meta's or Hugging Face's files, or with one GGUF model in it, or a training run.

    Raises FormatError naming what was found and what was expected.
    """
    if path.is_file():
        if path.suffix in (".safetensors", ".pth"):
            return open_checkpoint(path.parent)
        if path.suffix != ".gguf" and kind_of(path) != "a GGUF file":
            raise unlike(path, "a GGUF file or a folder of weights")
        return open_gguf(path)
    if not path.is_dir() and path.exists():
        raise FormatError(f"{path}: a pipe or a device; give a .gguf file or a folder of weights")
    if not path.is_dir():
        raise FormatError(f"{path}: no such file or folder; give a .gguf file or a folder of weights")
    if (path / "run.json").exists() or (path / "state.json").exists():
        from herd.weights.run import open_run

        return open_run(path)
    if (path / "params.json").exists():
        from herd.weights.meta import open_meta

        return open_meta(path)
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise lora_adapter(path)
    if (path / "config.json").exists():
        from herd.weights.hf import open_hf

        return open_hf(path)
    files = {
        file.name: file for file in sorted(path.iterdir()) if file.suffix.lower() == ".gguf" and os.path.isfile(file)
    }
    models = gguf_models({name: file.stat().st_size for name, file in files.items()})
    if len(models) == 1:
        return open_gguf(path / models[0].files[0])
    if models:
        raise FormatError(
            f"{path}: several models; name one file of it: {', '.join(model.files[0] for model in models)}"
        )
    if files:
        return open_gguf(next(iter(files.values())))  # which says what is missing, or what else it is
    expected = "expected params.json (Meta), config.json (Hugging Face) or a .gguf file"
    raise FormatError(f"{path}: no checkpoint found; {expected}")
