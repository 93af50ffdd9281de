"""Low-rank adapters (Hu et al., arXiv 2106.09685): matrices stay as they are, and a product of two thin ones is learned beside each."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from herd.errors import ConfigError
from herd.model.llama import Transformer
from herd.model.load import fill, generator_of
from herd.train.layout import whole
from herd.train.recipe import Lora
from herd.weights.adapter import Adapter
from herd.weights.checkpoint import StoredTensor


class StoredLinear(nn.Module):
    """x @ W.T with a frozen W that stays in its checkpoint's number format and is decoded for each product, forward and backward: the base of
    QLoRA (arXiv 2305.14314).
    """

    def __init__(self, stored: StoredTensor) -> None:
        super().__init__()
        self.stored = stored
        self.out_features, self.in_features = stored.shape

    @property
    def weight(self) -> Tensor:
        """The matrix in float32, [outputs, inputs], decoded now."""
        return torch.from_numpy(np.require(self.stored.float32(), requirements="W"))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _StoredProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return out


class _StoredProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: StoredLinear) -> Tensor:
        ctx.layer, ctx.kind = layer, x.dtype
        return F.linear(x, layer.weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad @ ctx.layer.weight.to(grad.dtype)).to(ctx.kind), None


def keep_stored(model: Transformer, tensors: Mapping[str, StoredTensor]) -> None:
    """Put a checkpoint's matrices, as they are stored, in place of those of a model without weights; embeddings and norms stay."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.startswith("layers."):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, StoredLinear(tensors[f"{name}.weight"]))


class LoraLinear(nn.Module):
    """x @ W.T + scale * dropout(x) @ A.T @ B.T with A [rank, inputs], B [outputs, rank] learned; scale is alpha / rank."""

    def __init__(self, base: nn.Linear | StoredLinear, inputs: int, outputs: int, settings: Lora) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, settings.alpha / settings.rank, settings.dropout
        self.lora_a = nn.Parameter(torch.empty(settings.rank, inputs, device="meta"))
        self.lora_b = nn.Parameter(torch.empty(outputs, settings.rank, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        thin = F.linear(F.dropout(x, self.dropout, self.training), self.lora_a)
        out: Tensor = self.base(x) + F.linear(thin, self.lora_b) * self.scale
        return out

    def merged(self) -> Tensor:
        """The one matrix that does what base and adapter do together, [outputs, inputs]."""
        return self.base.weight.detach() + self.scale * (self.lora_b.detach() @ self.lora_a.detach())


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before its adapters, for a while."""
    found = [(module, module.scale) for module in model.modules() if isinstance(module, LoraLinear)]
    try:
        for module, _ in found:
            module.scale = 0.0
        yield
    finally:
        for module, scale in found:
            module.scale = scale


def add_adapters(model: Transformer, settings: Lora) -> None:
    """Freeze `model` and put adapters, without memory yet, beside the named matrices of each layer."""
    model.requires_grad_(False)
    wanted = set(settings.targets)
    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if leaf in wanted and isinstance(module, nn.Linear | StoredLinear):
            adapter = LoraLinear(module, module.in_features, module.out_features, settings)
            setattr(model.get_submodule(parent), leaf, adapter)


def fresh_adapter(name: str, parameter: Tensor, seed: int) -> None:
    """Fill an adapter's matrix so that it changes nothing yet: A drawn as PEFT does (kaiming_uniform with a = sqrt(5)), B zero."""
    if name.endswith("lora_b"):
        parameter.zero_()
        return
    bound = 1 / math.sqrt(parameter.shape[1])
    drawn = torch.empty(parameter.shape, device="cpu").uniform_(-bound, bound, generator=generator_of(name, seed))
    fill(name, parameter, StoredTensor.of(drawn.numpy()))


def adapter_of(model: Transformer) -> Adapter:
    """The adapters of a model by canonical names, as arrays. ConfigError when it has none."""
    found = {
        f"{name}.weight": (_array(module.lora_a), _array(module.lora_b))
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }
    if not found:
        raise ConfigError("the model has no adapters")
    scale = next(module.scale for module in model.modules() if isinstance(module, LoraLinear))
    return Adapter(found, scale)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = whole(tensor.detach()).float().cpu().numpy()
    return found
