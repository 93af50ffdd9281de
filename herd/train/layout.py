"""How processes share a run: data parallel with sharded weights (FSDP2), tensor parallel inside it. Applied from outside.

Every process packs the same rows. Those of one data-parallel place take every dp-th row, computed together by tp processes that
share heads and feed-forward columns as `herd.model.sharding` says. Embedding and output are cut by FSDP alone, which pads what
does not divide, so that any vocabulary fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from herd.errors import ConfigError
from herd.model.llama import Transformer
from herd.model.load import fill
from herd.model.sharding import cut_dimension, share_of


def meet() -> None:
    """Join the processes that torchrun started with this one."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


@dataclass(frozen=True)
class Layout:
    """The place of this process: `dp_rank` of `dp` places that compute different rows, `tp` processes a place."""

    mesh: DeviceMesh | None = None
    dp: int = 1
    tp: int = 1
    dp_rank: int = 0

    @classmethod
    def of(cls, tp: int) -> "Layout":
        """The layout of all processes of torch.distributed; of this one alone where that is not initialized."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world % tp:
            raise ConfigError(f"layout.tp is {tp}; {world} processes cannot be shared by so many")
        if world == 1:
            return cls()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(device, (world // tp, tp), mesh_dim_names=("dp", "tp"))
        return cls(mesh, world // tp, tp, mesh["dp"].get_local_rank())

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.mesh is None or dist.get_rank() == 0

    def apply(self, model: Transformer) -> None:
        """Cut a whole model, the same on every process, into this process's share."""
        if self.mesh is None:
            return
        if self.tp > 1:
            share_of(model.config, self.tp)  # an error names what does not divide
            parallelize_module(
                model, self.mesh["tp"], {name: _style(name) for name, _ in model.named_modules() if _cut(name)}
            )
        for block in model.layers.values():
            fully_shard(block, mesh=self.mesh["dp"])
        fully_shard(model, mesh=self.mesh["dp"])
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums: the loss is divided by the global count already
                module.set_force_sum_reduction_for_comms(True)  # gloo adds and nothing else

    def sums(self, values: Sequence[float]) -> list[float]:
        """Numbers added over the places that compute different rows, in float64."""
        if self.mesh is None or self.dp == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total, group=self.mesh["dp"].get_group())
        found: list[float] = total.tolist()
        return found

    def together(self) -> None:
        """Wait for all processes."""
        if self.mesh is not None:
            dist.barrier()

    def agreed(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.mesh is None:
            return flag
        value = torch.tensor([float(flag)])
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> float:
        """The norm of all gradients over all processes; gradients of a larger one are scaled down to it."""
        if self.mesh is None:
            return float(nn.utils.clip_grad_norm_(parameters, largest))
        total = torch.zeros((), dtype=torch.float64)
        grads = [p.grad for p in parameters if p.grad is not None]
        for grad in grads:
            local, copies = (
                (grad.to_local(), _copies(grad)) if isinstance(grad, DTensor) else (grad, dist.get_world_size())
            )
            total += local.double().square().sum() / copies
        dist.all_reduce(total)
        norm = float(total.sqrt())
        scale = min(1.0, largest / (norm + 1e-6))
        for grad in grads:
            (grad.to_local() if isinstance(grad, DTensor) else grad).mul_(scale)
        return norm


def _copies(grad: DTensor) -> int:
    """How many processes hold the same part of a DTensor."""
    parts = 1
    for size, placement in zip(grad.device_mesh.shape, grad.placements, strict=True):
        parts *= 1 if placement.is_replicate() else size
    return dist.get_world_size() // parts


def _cut(name: str) -> bool:
    return cut_dimension(f"{name}.weight") is not None


def _style(name: str) -> ParallelStyle:
    return ColwiseParallel() if cut_dimension(f"{name}.weight") == 0 else RowwiseParallel()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that processes share, put together on each of them; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_like(target: Tensor, value: Tensor) -> Any:
    """A whole tensor cut as `target` is."""
    made = torch.empty_like(target)
    fill(made, value.to(made.device))
    return made
