"""Meta's own files: `params.json`, `consolidated.NN.pth` (1 to 16 model-parallel shards), `tokenizer.model`."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from herd.errors import FormatError, NoTokenizerError
from herd.family import ModelConfig
from herd.rotary import RopeScaling
from herd.text.gguf import GGUFTokenizer
from herd.text.meta import TiktokenTokenizer
from herd.text.tokenizer import Tokenizer
from herd.text.tokenizer_json import HFTokenizer
from herd.weights.checkpoint import Checkpoint, StoredTensor, check_tensors, number, positive_int
from herd.weights.dialog_files import Dialog, read_dialog, write_dialog
from herd.weights.files import read_json
from herd.weights.kinds import is_sentencepiece, unlike
from herd.weights.pth import PthFile, write_pth
from herd.weights.sidecars import read_declared, read_tokenizer, write_declared, write_tokenizer

_IGNORED = {"rope.freqs"}
COMPUTED = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "norm_eps", "rope_theta", "use_scaled_rope",
    # what Meta's readers take from elsewhere, or Llama 4's write
    "head_dim", "max_seq_len", "rope_scaling_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context",
)  # fmt: skip
HARMLESS = (  # the tensors say their sizes
    "vocab_size", "multiple_of", "ffn_dim_multiplier", "hidden_dim", "max_batch_size", "model_parallel_size", "vision_max_num_chunks",
)  # fmt: skip
# Meta's params.json does not say the factor of 3.2's rotary scaling; these widths are the 3.2 models'.
_FACTOR_32_WIDTHS = (2048, 3072)


def open_meta(folder: Path) -> Checkpoint:
    """Open a folder with `params.json` and `consolidated.*.pth`; FormatError when it is not whole."""
    params = read_json(folder / "params.json")
    paths = sorted(p for p in folder.iterdir() if re.fullmatch(r"consolidated\.\d\d\.pth", p.name))
    if not paths and (folder / "consolidated.safetensors").exists():
        raise FormatError(
            f"{folder}: consolidated.safetensors is Mistral's own layout; fetch the same model's Hugging Face files"
        )
    if not 1 <= len(paths) <= 16 or [int(p.name[13:15]) for p in paths] != list(range(len(paths))):
        raise FormatError(
            f"{folder}: found {len(paths)} consolidated.NN.pth; expected all of 1 to 16 shards numbered from 00"
        )
    shards = [PthFile(path) for path in paths]
    names = [name for name in shards[0].tensors if name not in _IGNORED]
    for shard in shards[1:]:
        if set(shard.tensors) != set(shards[0].tensors):
            raise FormatError(
                f"{shard.file.path}: holds other tensors than shard 00; the shards do not belong together"
            )
    config = _config(params, shards, str(folder))
    expected = config.tensor_shapes()
    if config.tied and "output.weight" in names:
        names.remove("output.weight")
    tensors = {}
    for name in names:
        if name not in expected:
            raise FormatError(
                f"{folder}: tensor {name} has no place in the Llama architecture; herd does not run this model"
            )
        tensors[name] = _merged(name, [shard.tensor(name) for shard in shards], expected[name], str(folder))

    return Checkpoint(
        folder, "meta", config, check_tensors(config, tensors, str(folder)), lambda: _tokenizer(folder),
        name=folder.name, load_declared=lambda: read_declared(folder, {}), files=tuple(paths),
        maps=tuple(shard.file for shard in shards), **read_dialog(folder),
    )  # fmt: skip


def _tokenizer(folder: Path) -> Tokenizer:
    """Meta's `tokenizer.model`, or a `tokenizer.json`, with what files beside it declare, if there are any."""
    if not (folder / "tokenizer.model").is_file():
        return read_tokenizer(folder)
    with (folder / "tokenizer.model").open("rb") as file:
        if is_sentencepiece(file.read(64)):
            raise unlike(folder / "tokenizer.model", "Llama 3's")
    tokenizer = TiktokenTokenizer.from_file(folder / "tokenizer.model")
    if not (folder / "tokenizer_config.json").exists():
        return tokenizer
    return TiktokenTokenizer(tokenizer.ranks, read_declared(folder, tokenizer.special_tokens, True, False))


def _config(params: dict[str, Any], shards: list[PthFile], where: str) -> ModelConfig:
    params = {key: value for key, value in params.items() if value is not None}
    for key, value in params.items():
        if key not in COMPUTED and key not in HARMLESS and value not in (0, -1, "", [], {}):
            raise FormatError(
                f"{where}/params.json: {key} is {value!r:.60}; herd does not run models with that feature"
            )
    if not isinstance(params.get("use_scaled_rope", False), bool):
        raise FormatError(
            f"{where}/params.json: use_scaled_rope is {params['use_scaled_rope']!r:.60}; expected true or false"
        )
    if "rope_theta" not in params:  # Llama 2's readers take 10,000, Llama 3's 500,000
        raise FormatError(f"{where}/params.json: rope_theta is missing; add the one that the model was trained with")
    dim, heads, layers = (positive_int(params, key, where) for key in ("dim", "n_heads", "n_layers"))
    sizes: dict[str, int] = {}
    for name, axis in (("tok_embeddings.weight", 0), ("layers.0.feed_forward.w1.weight", 0)):
        stored = shards[0].tensors.get(name)
        if stored is None or len(stored.shape) != 2:
            raise FormatError(f"{where}: tensor {name} is missing or not a matrix")
        split = len(shards) if stored.shape[1] == dim else 1
        sizes[name] = stored.shape[axis] * split
    theta = number(params, "rope_theta", 10_000.0, where)
    scaling = None
    if params.get("use_scaled_rope"):
        default = 32.0 if dim in _FACTOR_32_WIDTHS else 8.0
        scaling = RopeScaling(
            factor=number(params, "rope_scaling_factor", default, where),
            low_freq_factor=number(params, "rope_low_freq_factor", 1.0, where),
            high_freq_factor=number(params, "rope_high_freq_factor", 4.0, where),
            original_context=positive_int({"rope_original_context": 8192, **params}, "rope_original_context", where),
        )
    output = shards[0].tensors.get("output.weight")
    score = shards[0].tensors.get("score.weight")
    # One storage may hold all tensors; the same weights are the same part of it, in every shard.
    tied = score is None and (
        output is None
        or all(shard.tensors.get("output.weight") == shard.tensors["tok_embeddings.weight"] for shard in shards)
    )
    return ModelConfig(
        layers=layers,
        dim=dim,
        ffn_dim=sizes["layers.0.feed_forward.w1.weight"],
        heads=heads,
        kv_heads=positive_int({"n_kv_heads": heads, **params}, "n_kv_heads", where),
        head_dim=positive_int({"head_dim": dim // heads, **params}, "head_dim", where),
        vocab=sizes["tok_embeddings.weight"],
        context=positive_int({"max_seq_len": 131_072 if scaling else 8192, **params}, "max_seq_len", where),
        norm_eps=number(params, "norm_eps", 1e-5, where),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=tied,
        classes=0 if score is None else score.shape[0],
    )


def _merged(name: str, parts: list[StoredTensor], shape: tuple[int, ...], where: str) -> StoredTensor:
    """One tensor out of model-parallel parts: replicated, or cut along the rows or the columns, as the shapes tell."""
    first, count = parts[0], len(parts)
    if any(p.format != first.format or p.shape != first.shape for p in parts):
        raise FormatError(f"{where}: tensor {name} differs in shape or format between shards")
    if first.shape == shape:
        return first
    if (
        len(shape) == 2
        and len(first.shape) == 2
        and first.shape == (shape[0] // count, shape[1])
        and not shape[0] % count
    ):
        return StoredTensor(first.format, shape, lambda a, b: _stacked_rows(parts, a, b))
    if (
        len(shape) == 2
        and len(first.shape) == 2
        and first.shape == (shape[0], shape[1] // count)
        and not shape[1] % count
    ):
        return StoredTensor(
            first.format, shape, lambda a, b: np.concatenate([part.rows(a, b) for part in parts], axis=1)
        )
    raise FormatError(f"{where}: {count} parts of {name}, {list(first.shape)} each, do not make {list(shape)}")


def _stacked_rows(parts: list[StoredTensor], first: int, last: int) -> NDArray[np.uint8]:
    each = parts[0].row_count
    pieces = [
        parts[i].rows(max(first - i * each, 0), min(last - i * each, each))
        for i in range(first // each, min(-(-last // each), len(parts)))
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def params_json(config: ModelConfig) -> str:
    """`params.json`: Meta's keys, and after them what Meta's readers take from elsewhere."""
    params: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab,
        **_ffn(config),
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": config.rope_scaling is not None,
        "max_seq_len": config.context,
    }
    if config.head_dim * config.heads != config.dim:
        params["head_dim"] = config.head_dim
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        params["rope_scaling_factor"] = scaling.factor
        params["rope_low_freq_factor"] = scaling.low_freq_factor
        params["rope_high_freq_factor"] = scaling.high_freq_factor
        params["rope_original_context"] = scaling.original_context
    return json.dumps(params, indent=2) + "\n"


def _ffn(config: ModelConfig) -> dict[str, Any]:
    """`multiple_of` and `ffn_dim_multiplier` that make Meta's formula, round up 2/3 * 4 dim * m, give our width."""
    plain = int(2 * 4 * config.dim / 3)
    multiple = next(m for m in (4096, 1024, 256, 128, 64, 32, 16, 8, 4, 2, 1) if config.ffn_dim % m == 0)
    return {"multiple_of": multiple, "ffn_dim_multiplier": round((config.ffn_dim - multiple / 2) / plain, 6)}


def write_meta(
    folder: Path,
    checkpoint: Checkpoint,
    formats: dict[str, str],
    chunks: Callable[[str, StoredTensor, str], Iterator[bytes]],
    progress: Callable[[int], None],
) -> None:
    """Write one unsharded `consolidated.00.pth` and what belongs beside it."""
    config = checkpoint.config
    if config.rope_scaling is not None and config.rope_scaling.kind != "llama3":
        raise FormatError(
            f"Meta's params.json cannot say {config.rope_scaling.kind} rope scaling; convert to hf or gguf"
        )
    tensors = {name: (formats[name], shape) for name, shape in config.tensor_shapes().items()}
    shared = {}
    if config.tied:  # Meta's readers want an output head; it shares the embedding's bytes, as torch saves tied weights
        tensors["output.weight"] = tensors["tok_embeddings.weight"]
        shared["output.weight"] = "tok_embeddings.weight"

    def counted(name: str) -> Iterator[bytes]:
        for chunk in chunks(name, checkpoint.tensors[name], formats[name]):
            yield chunk
            progress(len(chunk))
        checkpoint.forget()

    with (folder / "consolidated.00.pth").open("wb") as file:
        write_pth(file, tensors, shared, counted)
    (folder / "params.json").write_text(params_json(config))
    try:
        _write_tokenizer(folder, checkpoint.tokenizer, config.context)
    except NoTokenizerError:  # stays without one
        write_declared(folder, checkpoint.declared)
    write_dialog(folder, Dialog.of(checkpoint))


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """Llama 3's as `tokenizer.model`, others as `tokenizer.json`; what is declared beside it unless it is Meta's own."""
    ranks = tokenizer.ranks if isinstance(tokenizer, TiktokenTokenizer) else None
    if isinstance(tokenizer, HFTokenizer | GGUFTokenizer):
        ranks = tokenizer.tiktoken_ranks()
    if ranks is None:
        write_tokenizer(folder, tokenizer, context)
        return
    metas = TiktokenTokenizer(ranks)
    (folder / "tokenizer.model").write_bytes(metas.to_model_file())
    if tokenizer.declared != metas.declared:
        write_tokenizer(folder, tokenizer, context, spec=False)
