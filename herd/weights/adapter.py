"""LoRA adapters in PEFT's files (`adapter_config.json`, `adapter_model.safetensors`), and a checkpoint with one merged in.

Rows of wq and wk lie in Hugging Face's rotary order in files and in Meta's here, as everywhere.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.errors import ConfigError, FormatError
from herd.weights.checkpoint import Checkpoint, StoredTensor, number, positive_int
from herd.weights.files import read_json
from herd.weights.names import from_canonical, halves_from_interleaved, interleaved_from_halves, is_rotary, to_canonical

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pair = tuple[NDArray[np.float32], NDArray[np.float32]]

_PREFIX = "base_model.model."
_PLAIN: dict[str, tuple[Any, ...]] = {
    # key of adapter_config.json -> values that mean plain LoRA
    "peft_type": ("LORA",), "bias": ("none", None), "use_dora": (False, None), "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []), "rank_pattern": (None, {}), "alpha_pattern": (None, {}), "alora_invocation_tokens": (None,),
    "trainable_token_indices": (None, {}, []), "lora_bias": (False, None), "use_bdlora": (None,), "use_rslora": (True, False, None),
    # others (pissa, olora, corda, lora_ga, loftq) change the base too: added to it as it was, such an adapter is another model
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}  # fmt: skip
_HARMLESS = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r", "lora_alpha",
    "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_config",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """Canonical name of a matrix [outputs, inputs] -> A [rank, inputs] and B [outputs, rank], in float32; W + scale * B @ A."""

    pairs: "Mapping[str, Pair]"
    scale: float


def read_adapter(folder: Path, head_dim: int) -> Adapter:
    """An adapter folder that PEFT wrote; FormatError naming what it has that is not plain LoRA on a Llama."""
    from herd.weights.hf import SafetensorsFile

    settings = read_json(folder / "adapter_config.json")
    for key, value in settings.items():
        if key not in _HARMLESS and value not in _PLAIN.get(key, (None, False, [], {})):
            raise FormatError(f"{folder}: {key} is {value!r:.60}; herd reads plain LoRA adapters")
    rank = positive_int(settings, "r", str(folder))
    divisor = math.sqrt(rank) if settings.get("use_rslora") else rank
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in SafetensorsFile(folder / "adapter_model.safetensors").tensors.items():
        stem, _, kind = name.removesuffix(".weight").rpartition(".")
        canonical = to_canonical(stem.removeprefix(_PREFIX) + ".weight", "hf")
        if canonical is None or kind not in ("lora_A", "lora_B") or not name.startswith(_PREFIX):
            raise FormatError(f"{folder}: tensor {name} is no LoRA matrix of a Llama")
        values = tensor.float32()
        if values.ndim != 2:
            raise FormatError(f"{folder}: tensor {name} has shape {list(values.shape)}; expected a matrix")
        if kind == "lora_B" and is_rotary(canonical):
            if len(values) % head_dim:
                raise FormatError(f"{folder}: tensor {name} has {len(values)} rows; expected whole heads of {head_dim}")
            values = values[interleaved_from_halves(len(values), head_dim)]
        found.setdefault(canonical, {})[kind] = values
    pairs = {}
    for canonical, pair in found.items():
        if set(pair) != {"lora_A", "lora_B"} or len(pair["lora_A"]) != rank or pair["lora_B"].shape[1] != rank:
            raise FormatError(f"{folder}: {canonical} has no two matrices of rank {rank}")
        pairs[canonical] = (pair["lora_A"], pair["lora_B"])
    if not pairs:
        raise FormatError(f"{folder}: the adapter is empty")
    alpha = number(settings, "lora_alpha", 8.0, str(folder))
    if not math.isfinite(alpha):
        raise FormatError(f"{folder}: lora_alpha is {alpha}; expected a number")
    return Adapter(pairs, alpha / divisor)


def write_adapter(folder: Path, adapter: Adapter, head_dim: int, base: str) -> None:
    """Write an adapter into an existing folder as PEFT reads it; `base` names the model it belongs to."""
    from herd.weights.tensors import write_tensors

    rank = len(next(iter(adapter.pairs.values()))[0])
    arrays = {}
    modules = set()
    for canonical, (a, b) in adapter.pairs.items():
        stem = from_canonical(canonical, "hf").removesuffix(".weight")
        modules.add(stem.rpartition(".")[2])
        arrays[f"{_PREFIX}{stem}.lora_A.weight"] = a
        arrays[f"{_PREFIX}{stem}.lora_B.weight"] = (
            b[halves_from_interleaved(len(b), head_dim)] if is_rotary(canonical) else b
        )
    write_tensors(folder / "adapter_model.safetensors", arrays)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "bias": "none",
        "lora_alpha": adapter.scale * rank, "lora_dropout": 0.0, "target_modules": sorted(modules), "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def merged(checkpoint: Checkpoint, adapter: Adapter, fmt: str = "F32") -> Checkpoint:
    """The checkpoint with the adapter added to its matrices, which become `fmt` (F32, F16 or BF16); read when used."""
    tensors = dict(checkpoint.tensors)
    for name, (a, b) in adapter.pairs.items():
        if name not in tensors or tensors[name].shape != (len(b), a.shape[1]):
            have = list(tensors[name].shape) if name in tensors else "no such tensor"
            raise ConfigError(f"the adapter has {name} of shape {[len(b), a.shape[1]]}; {checkpoint.name} has {have}")
        tensors[name] = _sum(tensors[name], a, b, adapter.scale, fmt)
    return replace(checkpoint, tensors=tensors)


def _sum(
    stored: StoredTensor, a: "NDArray[np.float32]", b: "NDArray[np.float32]", scale: float, fmt: str
) -> StoredTensor:
    from herd.quant.floats import encode

    def rows(first: int, last: int) -> "NDArray[np.uint8]":
        return encode(stored.float32(first, last) + scale * (b[first:last] @ a), fmt).reshape(last - first, -1)

    return StoredTensor(fmt, stored.shape, rows)
