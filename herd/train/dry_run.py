"""What a step of a recipe needs, without taking one: bytes by what they hold, operations, steps."""

from typing import Any

import torch

from herd.model.llama import Transformer
from herd.train.loss import CHUNK_BYTES
from herd.train.open import Opened


def needs(opened: Opened) -> dict[str, Any]:
    """Rows of a table for people: sizes in bytes of tensors on this process."""
    recipe, config = opened.recipe, opened.config
    with torch.device("meta"):
        model = Transformer(config)
    weights = sum(p.numel() for p in model.parameters())
    learning = weights
    if recipe.lora is not None:
        learning = sum(
            recipe.lora.rank * sum(module.weight.shape)
            for name, module in model.named_modules()
            if name.rpartition(".")[2] in recipe.lora.targets and isinstance(module, torch.nn.Linear)
        )
    length, rows = recipe.at(0)
    activations = activation_bytes(opened, recipe.batch.rows * length)
    parts = {
        "weights": 4 * (weights + (learning if recipe.lora else 0)),
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


def activation_bytes(opened: Opened, tokens: int) -> int:
    """Bytes that the backward pass of `tokens` tokens finds again, in float32, from what each operation of a layer saves."""
    c = opened.config
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    # two norms: their input (wide) and what they make; rotary: even and odd halves; attention; SwiGLU's five
    layer = 4 * c.dim + 2 * c.dim + (3 * q + 2 * kv) + (q + 2 * kv) + 4 * c.ffn_dim
    if opened.recipe.recompute:
        return 4 * tokens * (c.layers * c.dim + layer + 2 * c.dim)
    return 4 * tokens * (c.layers * layer + 2 * c.dim)
