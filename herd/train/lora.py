"""Low-rank adapters (Hu et al., arXiv 2106.09685): matrices stay as they are, and a product of two thin ones is learned beside each."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from herd.errors import ConfigError
from herd.model.llama import Transformer
from herd.train.layout import whole
from herd.train.recipe import Lora
from herd.weights.adapter import Adapter


class LoraLinear(nn.Module):
    """x @ W.T + scale * dropout(x) @ A.T @ B.T with A [rank, inputs], B [outputs, rank] learned; scale is alpha / rank."""

    def __init__(self, base: nn.Linear, inputs: int, outputs: int, settings: Lora, device: torch.device) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, settings.alpha / settings.rank, settings.dropout
        self.lora_a = nn.Parameter(torch.empty(settings.rank, inputs, device=device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, settings.rank, device=device))

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


def add_adapters(model: Transformer, settings: Lora, generator: torch.Generator) -> None:
    """Freeze `model` and put fresh adapters, which change nothing yet, beside the named matrices of each layer."""
    model.requires_grad_(False)
    wanted = set(settings.targets)
    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if leaf in wanted and isinstance(module, nn.Linear):
            adapter = LoraLinear(module, module.in_features, module.out_features, settings, module.weight.device)
            bound = 1 / math.sqrt(module.in_features)  # as PEFT: kaiming_uniform with a = sqrt(5)
            with torch.no_grad():
                drawn = torch.empty(adapter.lora_a.shape).uniform_(-bound, bound, generator=generator)
                adapter.lora_a.copy_(drawn)
            setattr(model.get_submodule(parent), leaf, adapter)


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
