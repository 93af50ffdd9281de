"""What a step of a recipe needs, without taking one: bytes by what they hold, operations, steps."""

from typing import Any

import torch

from herd.family import ModelConfig
from herd.model.load import without_weights
from herd.train.loss import CHUNK_BYTES
from herd.train.open import Opened


def needs(opened: Opened) -> dict[str, Any]:
    """Rows of a table for people: sizes in bytes of tensors on this process."""
    recipe, config = opened.recipe, opened.config
    model = without_weights(config)
    weights = sum(p.numel() for p in model.parameters())
    learning = weights
    if recipe.lora is not None:
        learning = sum(
            recipe.lora.rank * sum(module.weight.shape)
            for name, module in model.named_modules()
            if name.rpartition(".")[2] in recipe.lora.targets and isinstance(module, torch.nn.Linear)
        )
    length, rows = recipe.at(0)
    activations = activation_bytes(config, recipe.batch.rows * length, recipe.recompute)
    held = 4 * weights
    if recipe.lora is not None and recipe.lora.base == "stored" and opened.start is not None:
        matrices = [t for name, t in opened.start.tensors.items() if name.startswith("layers.") and len(t.shape) == 2]
        held += sum(t.nbytes - 4 * t.shape[0] * t.shape[1] for t in matrices)
    parts = {
        "weights": held + (4 * learning if recipe.lora else 0),
        "gradients": 4 * learning,
        "optimizer": 8 * learning,
        "activations": activations,
        "logits": CHUNK_BYTES,
    }
    flops = 3 * config.flops_per_token(length // 2) * length * rows
    return {
        "parameters": f"{weights:,}" + (f", {learning:,} of them in adapters learn" if recipe.lora else ""),
        "steps": f"{opened.steps:,} of {rows} rows of {length} tokens",
        "operations a step": f"{flops:.3g}",
        **{name: f"{size / 2**20:,.0f} MiB" for name, size in parts.items()},
        "in all": f"{sum(parts.values()) / 2**20:,.0f} MiB",
    }


def activation_bytes(config: ModelConfig, tokens: int, recompute: bool = False) -> int:
    """Bytes that the forward pass of `tokens` packed tokens keeps for the backward pass, in float32."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    # norms keep input and output, attention its three inputs, its output twice (documents put together) and a sum a head, SwiGLU four
    layer = 6 * config.dim + 4 * config.ffn_dim + 3 * q + 2 * kv + config.heads + 2
    kept = config.layers * config.dim + layer if recompute else config.layers * layer
    return 4 * tokens * (kept + 2 * config.dim + config.head_dim + 3)
