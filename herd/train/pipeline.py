"""Pipeline parallelism: stages are Transformers with parts missing, run by torch.distributed.pipelining's schedules.

Embedding and output take the place of a layer each, so that the first and last stage are a layer short (arXiv 2407.21783, section
3.3.2). The last stage computes the objective; its sums are told to all. Where embedding and output are one matrix, both ends hold
it, and each adds the other's gradient, so that both stay equal.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import pipelining
from torch.distributed.tensor import DTensor

from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.llama import Transformer
from herd.train.packing import Batch

Outcome = Callable[[Any, Batch], tuple[Tensor, dict[str, Any]]]
"""(what is called as a model, batch) -> the summed loss, and other sums."""

SCHEDULES: dict[str, tuple[Any, int]] = {
    # name -> torch's schedule, stages a process where the recipe does not say
    "gpipe": (pipelining.ScheduleGPipe, 1), "1f1b": (pipelining.Schedule1F1B, 1),
    "interleaved": (pipelining.ScheduleInterleaved1F1B, 2), "zero-bubble": (pipelining.ScheduleInterleavedZeroBubble, 2),
    "zbv": (pipelining.ScheduleZBVZeroBubble, 2),
}  # fmt: skip


def stage_layers(layers: int, stages: int) -> list[range]:
    """The layers of each stage; ConfigError where there are more stages than layers, embedding and output."""
    if stages > layers + 2:
        raise ConfigError(f"layout: {stages} pipeline stages for {layers} layers; {layers + 2} are the most")
    places = layers + 2  # the embedding is place 0, the output the last
    bounds = [places * i // stages for i in range(stages + 1)]
    return [range(max(first - 1, 0), min(last - 1, layers)) for first, last in itertools.pairwise(bounds)]


def stages_of(schedule: str, pp: int, virtual: int, rank: int) -> list[int]:
    """The numbers of the stages of process `rank`: one after another around, or (zbv) there and back."""
    if schedule == "zbv":
        return [rank, 2 * pp - 1 - rank]
    return [rank + i * pp for i in range(virtual)]


def _part(model: Transformer, layers: range, first: bool, last: bool) -> Transformer:
    """The stage of a whole model that has `layers`; modules are shared with it, a tied output is a copy."""
    with torch.device("meta"):
        stage = Transformer(model.config, layers=layers, embedding=first, output=last)
    for i in layers:
        stage.layers[str(i)] = model.layers[str(i)]
    if first:
        stage.tok_embeddings = model.tok_embeddings
    if last:
        stage.norm = model.norm
        if stage.output is not None and model.output is not None:
            weight = model.output.weight
            stage.output.weight = (
                nn.Parameter(torch.empty_like(weight), weight.requires_grad) if model.config.tied else weight
            )
        stage.score = model.score
    return stage


class Stage(nn.Module):
    """One stage: takes what the one before gave and the number of the micro-batch; the last gives its share of the loss."""

    def __init__(self, model: Transformer, pipeline: "Pipeline") -> None:
        super().__init__()
        self.model = model
        self._pipeline = [pipeline]  # in a list, so that it is no submodule

    def forward(self, x: Tensor, *, number: Tensor) -> Tensor:
        """States [rows, length, dim], or the micro-batch's number for the first stage."""
        return self._pipeline[0].compute(self.model, x, int(number))


class Pipeline(nn.Module):
    """The stages of one process, in place of a model: `run` takes all micro-batches of a step through all processes."""

    def __init__(self, model: Transformer, schedule: str, virtual: int, group: Any) -> None:
        super().__init__()
        self.config: ModelConfig = model.config
        self.schedule, self.group = schedule, group
        self.rank, self.pp = dist.get_rank(group), dist.get_world_size(group)
        self.count = self.pp * virtual
        layers = stage_layers(model.config.layers, self.count)
        self.numbers = stages_of(schedule, self.pp, virtual, self.rank)
        self.home = {i: r for r in range(self.pp) for i in stages_of(schedule, self.pp, virtual, r)}
        self.stages = nn.ModuleList(
            Stage(_part(model, layers[i], i == 0, i == self.count - 1), self) for i in self.numbers
        )
        self._built: dict[tuple[int, ...], Any] = {}
        self._batches: Sequence[Batch] = ()
        self._outcome: Outcome | None = None
        self._divisor, self._dtype = 1.0, torch.float32
        self._total, self._sums = 0.0, dict[str, Any]()

    @property
    def parts(self) -> list[Transformer]:
        """The Transformers of this process's stages."""
        return [stage.model for stage in self.stages]  # type: ignore[misc]

    def compute(self, model: Transformer, x: Tensor, number: int) -> Tensor:
        """One stage's work on a micro-batch: states, or of the last stage its loss over the divisor."""
        batch = self._batches[number]
        begins = batch.tokens if model.tok_embeddings is not None else x
        if model.norm is None:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
                states: Tensor = model(begins, mask=batch.documents)
            return states

        def finish(tokens: Tensor, positions: Tensor | None = None, mask: Any = None, *, head: Any = True) -> Any:
            return model(begins, positions, mask, head=head)

        assert self._outcome is not None
        loss, sums = self._outcome(finish, batch)
        self._total += float(loss.detach())
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return loss / self._divisor

    def run(
        self, outcome: Outcome, batches: Sequence[Batch], divisor: float, dtype: torch.dtype
    ) -> tuple[float, dict[str, float]]:
        """Gradients of the summed loss over `divisor`; the sum of the losses and the other sums, the same on every process."""
        self._begin(outcome, batches, divisor, dtype)
        numbers = torch.arange(len(batches))
        rows, length = batches[0].tokens.shape
        schedule = self._schedule(len(batches), rows, length, dtype)
        first = (numbers,) if 0 in self.numbers else ()
        schedule.step(*first, number=numbers, target=numbers, return_outputs=False)
        self._sum_tied()
        return self.told()

    @torch.no_grad()
    def measure(self, outcome: Outcome, batch: Batch, dtype: torch.dtype) -> tuple[float, dict[str, Any]]:
        """The loss of one batch and the other sums, without gradients."""
        self._begin(outcome, [batch], 1.0, dtype)
        number, states = torch.zeros(1, dtype=torch.int64), torch.empty(0)
        for i in range(self.count):
            if i and self.home[i] == self.rank != self.home[i - 1]:
                rows, length = batch.tokens.shape
                states = self._states(rows, length, dtype)
                dist.recv(states, group=self.group, group_src=self.home[i - 1])
            if self.home[i] == self.rank:
                states = self.stages[self.numbers.index(i)](states, number=number)
                if i + 1 < self.count and self.home[i + 1] != self.rank:
                    dist.send(states.contiguous(), group=self.group, group_dst=self.home[i + 1])
        return self.told()

    def _begin(self, outcome: Outcome, batches: Sequence[Batch], divisor: float, dtype: torch.dtype) -> None:
        self._outcome, self._batches, self._divisor, self._dtype = outcome, batches, divisor, dtype
        self._total, self._sums = 0.0, {}

    def told(self) -> tuple[float, dict[str, Any]]:
        """What the last stage has summed."""
        found: list[Any] = [(self._total, self._sums)]
        dist.broadcast_object_list(found, group=self.group, group_src=self.home[self.count - 1])
        self._batches, self._outcome = (), None
        total, sums = found[0]
        return total, sums

    def _states(self, rows: int, length: int, dtype: torch.dtype) -> Tensor:
        kind = next(self.parameters()).dtype if dtype == torch.float32 else dtype
        return torch.empty(rows, length, self.config.dim, dtype=kind)

    def _schedule(self, count: int, rows: int, length: int, dtype: torch.dtype) -> Any:
        key = (count, rows, length)
        if key in self._built:
            return self._built[key]
        states = self._states(rows, length, dtype).to("meta").requires_grad_()
        number = torch.zeros(1, dtype=torch.int64, device="meta")
        loss = torch.zeros((), dtype=torch.float32, device="meta").requires_grad_()
        made = []
        for i, stage in zip(self.numbers, self.stages, strict=True):
            first, last = i == 0, i == self.count - 1
            made.append(pipelining.PipelineStage(
                stage, i, self.count, torch.device("cpu"), group=self.group,
                input_args=(number if first else states,), output_args=(loss if last else states,),
                input_grads=(None if first else states.detach(),), output_grads=None if last else (states.detach(),),
            ))  # fmt: skip
        kind, _ = SCHEDULES[self.schedule]
        several = issubclass(kind, pipelining.schedules.PipelineScheduleMulti)
        try:
            schedule = kind(made if several else made[0], count, loss_fn=lambda loss, _: loss, scale_grads=False)
        except ValueError as error:
            raise ConfigError(
                f"layout.schedule {self.schedule}: {error}; change batch.tokens, batch.rows or layout.pp"
            ) from error
        self._built[key] = schedule
        return schedule

    def _sum_tied(self) -> None:
        """Add the gradients of a matrix that both ends hold."""
        if not self.config.tied:
            return
        ends = {
            name: parameter.grad
            for part in self.parts
            for name, parameter in part.named_parameters()
            if name in ("tok_embeddings.weight", "output.weight") and parameter.grad is not None
        }
        local = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in ends.values()]
        if len(local) == 2:
            total = local[0] + local[1]
            for grad in local:
                grad.copy_(total)
        elif local:
            other = self.home[self.count - 1 if "tok_embeddings.weight" in ends else 0]
            theirs = torch.empty_like(local[0])
            ops = [
                dist.P2POp(dist.isend, local[0].contiguous(), group=self.group, group_peer=other),
                dist.P2POp(dist.irecv, theirs, group=self.group, group_peer=other),
            ]
            for work in dist.batch_isend_irecv(ops):
                work.wait()
            local[0].add_(theirs)


def named_parameters(model: Any) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a model or of a process's stages, by canonical names."""
    parts = model.parts if isinstance(model, Pipeline) else [model]
    return [pair for part in parts for pair in part.named_parameters()]


def is_copy(model: Any, name: str) -> bool:
    """Whether a parameter is the second copy of a tied matrix, which another stage holds too."""
    return isinstance(model, Pipeline) and model.config.tied and name == "output.weight"
