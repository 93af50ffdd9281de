"""Filling a model from a checkpoint's tensors: each rank reads and keeps what it holds, a few megabytes at a time."""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.llama import Transformer
from herd.weights.checkpoint import StoredTensor

_CHUNK = 64 << 20
Cut = Callable[[str, tuple[int, ...]], tuple[slice, ...]]
"""(canonical name, whole shape) -> the rows (and columns) that this process holds."""


def whole(_: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The cut of a process that holds everything."""
    return tuple(slice(0, size) for size in shape)


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, StoredTensor], cut: Cut = whole) -> None:
    """Fill `model`'s parameters from a checkpoint's tensors of the same names. Quantized weights are decoded.

    `cut` says which part of each this process holds; of DTensors that is known. ConfigError when a tensor is missing or its
    shape is not the parameter's. Tensors that the model has no part for are not read.
    """
    for name, parameter in model.named_parameters():
        stored = tensors.get(name)
        if stored is None and name == "output.weight":  # tied, on a stage that holds no embedding
            stored = tensors.get("tok_embeddings.weight")
        if stored is None:
            raise ConfigError(f"the model has a parameter {name}; the checkpoint has no such tensor")
        fill(name, parameter, stored, cut)


def fill(name: str, parameter: Tensor, stored: StoredTensor, cut: Cut = whole) -> None:
    """Fill what this process holds of one tensor; ConfigError when its shape is another."""
    if isinstance(parameter, DTensor):
        if parameter.shape != stored.shape:
            raise _wrong_shape(name, stored.shape, parameter.shape)
        span, local = held(parameter), parameter.to_local()
    else:
        span, local = cut(name, stored.shape), parameter
    if local.shape != tuple(part.stop - part.start for part in span):
        raise _wrong_shape(name, stored.shape, local.shape)
    if len(stored.shape) == 1:
        local.copy_(torch.from_numpy(np.require(stored.float32()[span[0]], requirements="W")))
        return
    rows, columns = span
    step = max(1, _CHUNK // (4 * stored.shape[1]))
    for first in range(rows.start, rows.stop, step):
        last = min(first + step, rows.stop)
        part = np.require(stored.float32(first, last)[:, columns], requirements=["W", "C"])
        local[first - rows.start : last - rows.start].copy_(torch.from_numpy(part))


def held(parameter: DTensor) -> tuple[slice, ...]:
    """What this process holds of a DTensor. A dimension that is cut twice was cut by the mesh's last dimension first."""
    spans = [(0, size) for size in parameter.shape]
    for axis, placement in reversed(list(enumerate(parameter.placements))):
        if placement.is_replicate():
            continue
        dim = placement.dim  # type: ignore[attr-defined]
        first, last = spans[dim]
        size = -(-(last - first) // parameter.device_mesh.size(axis))
        begin = min(first + size * parameter.device_mesh.get_local_rank(axis), last)
        spans[dim] = (begin, min(begin + size, last))
    return tuple(slice(*span) for span in spans)


def _wrong_shape(name: str, found: Any, expected: Any) -> ConfigError:
    return ConfigError(f"tensor {name} has shape {list(found)}; the model expects {list(expected)}")


def without_weights(config: ModelConfig) -> Transformer:
    """A model whose tensors have shapes and no memory: `materialize` gives them that, on the device where they belong."""
    with torch.device("meta"):
        return Transformer(config)


def from_checkpoint(
    config: ModelConfig, tensors: Mapping[str, StoredTensor], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Transformer:
    """A model on `device` with a checkpoint's weights in `dtype`."""
    model = without_weights(config)
    model.materialize(device, dtype)
    load_weights(model, tensors)
    return model.eval()


def generator_of(name: str, seed: int) -> torch.Generator:
    """Random numbers of one tensor, which follow from seed and name, whatever else a process holds."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@torch.no_grad()
def fresh(name: str, parameter: Tensor, layers: int, seed: int, deviation: float = 0.02) -> None:
    """Fill what is here of a tensor of a new model: norms with 1, matrices from a normal distribution with `deviation`, the two that write to
    the residual with 1 / sqrt(2 * layers) of it (Radford et al. 2019). Drawn in float32, so that dtype and layout change nothing.
    """
    if parameter.dim() == 1:
        parameter.fill_(1.0)
        return
    if name.endswith(("wo.weight", "w2.weight")):
        deviation /= math.sqrt(2 * layers)
    drawn = torch.empty(parameter.shape, device="cpu").normal_(0.0, deviation, generator=generator_of(name, seed))
    fill(name, parameter, StoredTensor.of(drawn.numpy()))
