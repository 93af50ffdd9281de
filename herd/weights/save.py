"""Tensors in memory -> a checkpoint in any of the three layouts: what training, distilling and merging end with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.errors import NoTokenizerError
from herd.family import ModelConfig
from herd.progress import Progress, silent
from herd.text.tokenizer import Tokenizer
from herd.weights.checkpoint import Checkpoint, StoredTensor, check_tensors
from herd.weights.convert import convert

if TYPE_CHECKING:
    from numpy.typing import NDArray


def save(
    path: Path,
    config: ModelConfig,
    tensors: "Mapping[str, StoredTensor | NDArray[Any]]",
    *,
    kind: str,
    tokenizer: Tokenizer | None = None,
    template: str | None = None,
    weights: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Write tensors, by canonical names and in Meta's rotary order, to `path` as `kind`: meta, hf or gguf.

    Arrays are taken as `StoredTensor.of` takes them. `weights`: F32, F16 or BF16 for all matrices; by default each keeps its
    format. The name of the model is the path's. Nothing is written unless all is: FormatError for a tensor that is
    missing, does not belong, has a wrong shape or is not finite; ConfigError when `path` exists.
    """
    stored = {name: t if isinstance(t, StoredTensor) else StoredTensor.of(t) for name, t in tensors.items()}

    def load_tokenizer() -> Tokenizer:
        if tokenizer is None:
            raise NoTokenizerError(f"{path}: was saved without a tokenizer")
        return tokenizer

    checkpoint = Checkpoint(
        path, "memory", config, check_tensors(config, stored, str(path)), load_tokenizer, template, name=path.stem
    )
    return convert(checkpoint, path, kind, weights, progress)
