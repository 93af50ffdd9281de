"""How processes share a run: data parallel with sharded weights (FSDP2), tensor parallel inside it, and what `herd.train.context` and
`herd.train.pipeline` do. Applied from outside.

Every process packs the same rows. Those of one data-parallel place take every dp-th row, computed together by tp processes that
share heads and feed-forward columns as `herd.model.sharding` says, and cp processes that share its tokens. Weights are cut over dp
and cp. Embedding and output are cut by FSDP alone, which pads what does not divide, so that any vocabulary fits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from herd.errors import ConfigError
from herd.model.llama import Transformer
from herd.model.sharding import cut_dimension, share_of
from herd.train.context import gather_keys, part_of
from herd.train.packing import Batch
from herd.train.pipeline import SCHEDULES, Pipeline, is_copy, named_parameters
from herd.train.recipe import Parallel


def meet(address: str | None = None, rank: int = -1, processes: int = -1) -> None:
    """Join the processes that torchrun started with this one; or those that meet at a HOST:PORT, where the first of them runs."""
    method = None if address is None else f"tcp://{address}"
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", method, rank=rank, world_size=processes)


def part() -> None:
    """Leave the processes that were met, so that this one can meet others."""
    dist.destroy_process_group()


@dataclass(frozen=True)
class Layout:
    """The place of this process among pp x dp x cp x tp.

    `dp` places compute different rows, `cp` processes share the tokens of a row, `tp` the heads and columns of a layer, `pp` the layers.
    """

    mesh: DeviceMesh | None = None
    dp: int = 1
    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp_rank: int = 0
    cp_rank: int = 0
    schedule: str = "1f1b"
    virtual: int = 1
    shard: DeviceMesh | None = None  # dp and cp in one: over these weights are cut

    @classmethod
    def of(cls, wanted: Parallel) -> "Layout":
        """The layout of all processes of torch.distributed; of this one alone where that is not initialized."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        inner = wanted.tp * wanted.cp * wanted.pp
        dp = wanted.dp or max(1, world // inner)
        if dp * inner != world:
            degrees = ", ".join(
                f"{name} {getattr(wanted, name)}" for name in ("tp", "cp", "pp", "dp") if getattr(wanted, name)
            )
            need = f"{wanted.dp * inner}" if wanted.dp else f"a multiple of {inner}"
            raise ConfigError(
                f"layout: {degrees} need {need} processes; {world} {'were' if world > 1 else 'was'} started (torchrun --nproc-per-node)"
            )
        if world == 1:
            return cls()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(device, (wanted.pp, dp, wanted.cp, wanted.tp), mesh_dim_names=("pp", "dp", "cp", "tp"))
        shard = mesh["dp", "cp"]._flatten("shard")
        _, usual = SCHEDULES[wanted.schedule]
        return cls(
            mesh, dp, wanted.tp, wanted.cp, wanted.pp, mesh["dp"].get_local_rank(), mesh["cp"].get_local_rank(),
            wanted.schedule, wanted.virtual or usual, shard,
        )  # fmt: skip

    @classmethod
    def on_paper(cls, wanted: Parallel) -> "Layout":
        """The numbers of a layout, without processes: enough to check it."""
        virtual = wanted.virtual or SCHEDULES[wanted.schedule][1]
        return cls(None, wanted.dp or 1, wanted.tp, wanted.cp, wanted.pp, schedule=wanted.schedule, virtual=virtual)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.mesh is None or dist.get_rank() == 0

    def apply(self, model: Transformer, dtype: torch.dtype = torch.float32) -> "Transformer | Pipeline":
        """Cut a model, still without memory, into this process's share. In bfloat16 what is gathered, and the states between layers, are
        in bfloat16; what is kept, updated and added up over processes and micro-batches is in float32 (as arXiv 2407.21783, 3.3.2).
        """
        if self.mesh is None:
            return model
        if self.cp > 1:
            gather_keys(model, self.mesh["cp"].get_group())
        if self.tp > 1:
            share_of(model.config, self.tp)  # an error names what does not divide
        if self.pp == 1:
            self._shard(model, model, dtype)
            return model
        pipeline = Pipeline(model, self.schedule, self.virtual, self.mesh["pp"].get_group())
        for stage, part in zip(pipeline.stages, pipeline.parts, strict=True):
            self._shard(stage, part, dtype)
        return pipeline

    def _shard(self, root: nn.Module, model: Transformer, dtype: torch.dtype) -> None:
        """Tensor parallelism inside layers, then FSDP over the processes that compute other tokens."""
        assert self.mesh is not None
        if self.tp > 1:
            parallelize_module(
                model, self.mesh["tp"], {name: _style(name) for name, _ in model.named_modules() if _cut(name)}
            )
        again = self.pp == 1  # in a pipeline weights stay whole from a step's first micro-batch to its last
        policy = MixedPrecisionPolicy()
        if dtype != torch.float32:
            policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in model.layers.values():
            fully_shard(block, mesh=self.shard, reshard_after_forward=again, mp_policy=policy)
        fully_shard(root, mesh=self.shard, reshard_after_forward=False, mp_policy=policy)
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums: the loss is divided by the global count already
                module.set_force_sum_reduction_for_comms(True)  # gloo adds and nothing else

    def reshard(self, model: Any) -> None:
        """Cut weights again that a forward pass without a backward pass left whole."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def writes(self, tensor: Tensor) -> bool:
        """Whether this process is the one that writes its part of a tensor, of several that hold the same part."""
        if self.mesh is None or self.tp == 1:
            return True
        cut = isinstance(tensor, DTensor) and len(tensor.placements) == 2 and not tensor.placements[1].is_replicate()
        return cut or self.mesh["tp"].get_local_rank() == 0

    def part(self, batch: Batch) -> Batch:
        """What this process has of a batch of whole rows."""
        return batch if self.cp == 1 else part_of(batch, self.cp, self.cp_rank, self.group("cp"))

    def group(self, over: str) -> dist.ProcessGroup:
        """The processes that differ from this one in `over` alone."""
        mesh = self.shard if over == "shard" else self.mesh and self.mesh[over]
        assert mesh is not None
        return mesh.get_group()

    def sums(self, values: Sequence[float], over: str = "shard") -> list[float]:
        """Numbers added in float64 over the places that compute different rows (dp), tokens of a row (cp), or both (shard)."""
        count = {"dp": self.dp, "cp": self.cp, "shard": self.dp * self.cp}[over]
        if count == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total, group=self.group(over))
        found: list[float] = total.tolist()
        return found

    def told(self, value: Any) -> Any:
        """What the first process says."""
        if self.mesh is None:
            return value
        found = [value]
        dist.broadcast_object_list(found)
        return found[0]

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

    def clip(self, model: Any, largest: float) -> float:
        """The norm of all gradients over all processes; gradients of a larger one are scaled down to it."""
        named = [(name, p.grad) for name, p in named_parameters(model) if p.grad is not None]
        grads = [grad for _, grad in named]
        if self.mesh is None:
            return float(nn.utils.clip_grad_norm_([p for _, p in named_parameters(model)], largest))
        total = torch.zeros((), dtype=torch.float64)
        for name, grad in named:
            if is_copy(model, name):
                continue
            stage = dist.get_world_size() // self.pp
            local, copies = (grad.to_local(), stage // _parts(grad)) if isinstance(grad, DTensor) else (grad, stage)
            total += local.double().square().sum() / copies
        dist.all_reduce(total)
        norm = float(total.sqrt())
        scale = min(1.0, largest / (norm + 1e-6))
        for grad in grads:
            (grad.to_local() if isinstance(grad, DTensor) else grad).mul_(scale)
        return norm


def _parts(grad: DTensor) -> int:
    """How many parts a DTensor is cut into."""
    return math.prod(
        size for size, p in zip(grad.device_mesh.shape, grad.placements, strict=True) if not p.is_replicate()
    )


def _cut(name: str) -> bool:
    return cut_dimension(f"{name}.weight") is not None


def _style(name: str) -> ParallelStyle:
    return ColwiseParallel() if cut_dimension(f"{name}.weight") == 0 else RowwiseParallel()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that processes share, put together on each of them; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
