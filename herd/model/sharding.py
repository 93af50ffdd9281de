"""How weights are cut over the processes of a tensor-parallel group, as Megatron-LM does (arXiv 1909.08053).

Heads and feed-forward columns are shared; their sums are added once after attention and once after the feed-forward.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.llama import Transformer
from herd.model.load import Cut

CUTS: dict[str, int] = {
    # the end of a parameter's name -> the dimension that is shared: 0 outputs, 1 inputs; others every process holds whole
    "attention.wq.weight": 0, "attention.wk.weight": 0, "attention.wv.weight": 0, "attention.wo.weight": 1,
    "feed_forward.w1.weight": 0, "feed_forward.w3.weight": 0, "feed_forward.w2.weight": 1,
}  # fmt: skip


def cut_dimension(name: str) -> int | None:
    """The dimension of a canonical tensor that is shared; None for one that is not."""
    return next((dim for end, dim in CUTS.items() if name.endswith(end)), None)


def share_of(config: ModelConfig, world: int) -> ModelConfig:
    """The shape that one of `world` processes holds; ConfigError when they cannot share evenly."""
    if config.kv_heads % world or config.ffn_dim % world:
        raise ConfigError(
            f"{world} processes cannot share {config.kv_heads} kv heads and {config.ffn_dim} feed-forward columns "
            "evenly; start fewer"
        )
    heads, kv_heads = config.heads // world, config.kv_heads // world
    return replace(config, heads=heads, kv_heads=kv_heads, ffn_dim=config.ffn_dim // world)


def cut_of(rank: int, world: int) -> Cut:
    """What process `rank` of `world` holds of each tensor."""

    def cut(name: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
        shared = cut_dimension(name)
        return tuple(
            slice(size * rank // world, size * (rank + 1) // world) if dim == shared else slice(0, size)
            for dim, size in enumerate(shape)
        )

    return cut


def add_sums(model: Transformer, group: dist.ProcessGroup) -> None:
    """Let the model of a share add what the group's processes computed, where an input is shared."""
    for name, module in model.named_modules():
        if cut_dimension(f"{name}.weight") == 1:
            module.register_forward_hook(partial(_all_reduce, group))


def _all_reduce(group: dist.ProcessGroup, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    dist.all_reduce(output, group=group)
    return output
