"""What a checkpoint is and what it needs, as plain data for printing."""

import os
from collections import Counter
from typing import Any

from herd.errors import FormatError
from herd.family import SHAPES
from herd.weights.checkpoint import Checkpoint
from herd.weights.memory import CACHES, advice, cache_bytes_per_token, need
from herd.weights.presets import preset_for


def inspect(checkpoint: Checkpoint) -> dict[str, Any]:
    """Architecture, tensors, formats, tokenizer, template, sizes, and how much of it this machine's memory holds."""
    config = checkpoint.config
    counts = Counter(tensor.format for tensor in checkpoint.tensors.values())
    sizes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        sizes[tensor.format] += tensor.nbytes
    return {
        "path": str(checkpoint.path),
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "shape": next((name for name, shape in SHAPES.items() if shape == config), None),
        "config": {field: _plain(getattr(config, field)) for field in config.__dataclass_fields__},
        "parameters": config.parameters,
        "weight_bytes": checkpoint.weight_bytes,
        "kv_bytes_per_token": {kind: cache_bytes_per_token(config, kind) for kind in CACHES},
        "flops_per_token": config.flops_per_token(1),
        "formats": {fmt: {"tensors": counts[fmt], "bytes": sizes[fmt]} for fmt in counts},
        "tokenizer": _tokenizer(checkpoint),
        "chat_template": checkpoint.chat_template,
        "tool_template": checkpoint.tool_template,
        "recommended_sampling": dict(checkpoint.sampling),
        "sampling": preset_for(checkpoint).params(),
        "tensors": [
            {"name": name, "shape": list(tensor.shape), "format": tensor.format, "bytes": tensor.nbytes}
            for name, tensor in checkpoint.tensors.items()
        ],
        "machine": _machine(checkpoint),
    }


def _plain(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dataclass_fields__") else value


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        tokenizer = checkpoint.tokenizer
    except FormatError as error:
        return {"error": str(error)}
    return {
        "vocabulary": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_tokens),
        "start_token": tokenizer.bos_id,
        "stop_tokens": sorted(tokenizer.stop_ids),
    }


def _machine(checkpoint: Checkpoint) -> dict[str, Any]:
    """Memory that is free now, and the longest context whose cache (16-bit) fits beside the weights, as the native backend counts."""
    found = need(checkpoint)
    context = min(checkpoint.config.context, found.context_that_fits)
    return {
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_bytes": found.free,
        "packed_bytes": found.weights,
        "cores": os.cpu_count(),
        "fits": context > 0,
        "context_that_fits": context,
        "advice": None if context else advice(checkpoint, found),
    }
