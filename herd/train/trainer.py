"""The loop: a batch, its loss and gradients, one update, a line in the log. Everything else is handed to it."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from herd.errors import HerdError
from herd.train.checkpoint import Keeper, Progress, trained
from herd.train.layout import Layout
from herd.train.objectives import Objective
from herd.train.packing import Batch, Packer, Row, Stream, collate
from herd.train.pipeline import Pipeline
from herd.train.recipe import Recipe
from herd.train.schedule import rate

Log = Callable[..., None]


class TrainingError(HerdError):
    """Training cannot go on: the loss or a gradient is not finite."""


def make_optimizer(model: Any, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over what learns; vectors (norms) do not decay. What is cut differently is updated apart."""
    settings = recipe.optimizer
    learning = [p for _, p in trained(model)]
    groups: dict[Any, dict[str, Any]] = {}
    for p in learning:
        decay = settings.decay if p.dim() > 1 else 0.0
        group = groups.setdefault(
            (decay, p.device_mesh if isinstance(p, DTensor) else None), {"weight_decay": decay, "params": []}
        )
        group["params"].append(p)
    return torch.optim.AdamW(
        list(groups.values()), lr=0.0, betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon, fused=True,
    )  # fmt: skip


@dataclass
class Trainer:
    """One run. `steps` is its length; `dtype` what products are computed in; `keeper` None keeps nothing; `token_bytes`
    [vocab] are the bytes each token stands for, for bits per byte.
    """

    model: Any
    packer: Stream
    objective: Objective
    recipe: Recipe
    steps: int
    optimizer: torch.optim.Optimizer
    log: Log
    dtype: torch.dtype = torch.float32
    keeper: Keeper | None = None
    keep_also: dict[str, Any] = field(default_factory=dict)
    validation: Packer | None = None
    stop: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=Progress)
    token_bytes: Tensor | None = None
    layout: Layout = field(default_factory=Layout)
    measure: Callable[[], Iterator[dict[str, Any]]] | None = None  # what is validated instead of the loss, by source
    close: Callable[[], None] = lambda: None
    operations: Callable[[int], float] | None = (
        None  # floating-point, of forward and backward, for a token in rows of a length
    )
    peak: float = 0.0  # operations a second that matrix products reach on all processes; 0: not measured

    def train(self) -> bool:
        """Train to the end, or to where `stop` says so; whether it came to the end. What was learned is saved in both cases."""
        every = self.recipe.checkpoints.every
        if self.measure is not None and self.progress.step == 0 and self.recipe.validate_every:
            self.validate()
        while self.progress.step < self.steps and not self.layout.agreed(self.stop()):
            self.step()
            if self.recipe.validate_every and self.progress.step % self.recipe.validate_every == 0:
                self.validate()
            if every and self.progress.step % every == 0:
                self.save()
        self.save()
        if self.keeper is not None:
            self.keeper.wait()
        return self.progress.step >= self.steps

    def step(self) -> None:
        """One update of the weights by one global batch."""
        began = time.monotonic()
        length, rows = self.recipe.at(self.progress.tokens)
        batch = self.packer.rows(length, rows)
        self.model.train()
        # dropout: the same after a resume, another for each place that computes other rows
        torch.manual_seed((self.recipe.seed * 1_000_003 + self.progress.step) * 65_537 + self.layout.dp_rank)
        loss, sums, count = self.gradients(batch, length)
        norm = self.layout.clip(self.model, self.recipe.optimizer.clip)
        learning_rate = rate(self.recipe.schedule, self.progress.step, self.steps)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.progress.updates += 1
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += len(batch) * length
        took = time.monotonic() - began
        self.log(
            event="step", step=self.progress.step, tokens=self.progress.tokens, loss=loss, rate=learning_rate, norm=norm,
            count=count, seconds=round(took, 4), **sums, **self._use(len(batch) * length, length, took),
        )  # fmt: skip
        if not finite:
            self._not_finite(batch, loss, norm)

    def _use(self, tokens: int, length: int, seconds: float) -> dict[str, float]:
        """The share of the matrix products' peak that a step reached (model FLOPs utilization, arXiv 2204.02311)."""
        if self.operations is None or not self.peak:
            return {}
        return {"mfu": round(self.operations(length) * tokens / seconds / self.peak, 4)}

    def gradients(self, rows: list[Row], length: int) -> tuple[float, dict[str, float], float]:
        """Gradients of the mean loss over a global batch; the mean, other means, and how many units they are over."""
        size, rows = self.recipe.batch.rows, rows[self.layout.dp_rank :: self.layout.dp]
        pieces = [collate(self.packer.sources, rows[i : i + size], length) for i in range(0, len(rows), size)]
        parts = [self.layout.part(piece) for piece in pieces]
        (count,) = self.layout.sums([sum(self.objective.count(piece) for piece in pieces)], "dp")
        if not count:
            names = ", ".join(self.packer.sources[p.source].names(p.sample) for p in pieces[0].pieces[:3])
            raise TrainingError(f"a batch has no {self.objective.unit}: all its targets are masked ({names}, ...)")
        # of processes that share rows each counts what its loss is over: its own tokens, or the samples that all of them see
        (divisor,) = self.layout.sums([sum(self.objective.count(part) for part in parts)])
        if isinstance(self.model, Pipeline):
            total, sums = self.model.run(self._outcome, parts, divisor, self.dtype)
        else:
            total, sums = 0.0, dict[str, float]()
            for part in parts:
                loss, found = self._outcome(self.model, part)
                torch.autograd.backward(loss / divisor)
                total += float(loss.detach())
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value
        kinds = sorted(sums)
        total, *values = self.layout.sums([total, *(sums[kind] for kind in kinds)])
        return total / divisor, {name: value / divisor for name, value in zip(kinds, values, strict=True)}, count

    def _outcome(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.objective(model, batch)

    @torch.no_grad()
    def validate(self) -> None:
        """Log the loss over each validation source, every sample once, or what is measured instead."""
        for values in self.measure() if self.measure is not None else ():
            self.log(event="validation", step=self.progress.step, tokens=self.progress.tokens, **values)
        if self.validation is None:
            return
        self.model.eval()
        for i, source in enumerate(self.validation.sources):
            total, count, size, sums = 0.0, 0.0, 0.0, dict[str, float]()
            for rows in in_order(source, i, self.recipe.data.length):
                batch = collate(self.validation.sources, rows, self.recipe.data.length)
                if units := self.objective.count(batch):
                    loss, found = self._measure(batch, units)
                    total += loss
                    count += units
                    if self.token_bytes is not None:
                        size += float((self.token_bytes[batch.targets] * batch.weights).sum())
                    for name, value in found.items():
                        sums[name] = sums.get(name, 0.0) + value
            self.log(
                event="validation", step=self.progress.step, tokens=self.progress.tokens, source=source.name,
                loss=total / count, count=count, **{name: value / count for name, value in sums.items()},
                **({"bits_per_byte": total / math.log(2) / size} if size else {}),
            )  # fmt: skip
        self.layout.reshard(self.model)

    def _measure(self, batch: Batch, units: float) -> tuple[float, dict[str, float]]:
        """The summed loss and other sums over a batch that all places compute."""
        part = self.layout.part(batch)
        if isinstance(self.model, Pipeline):
            total, sums = self.model.measure(self._outcome, part, self.dtype)
        else:
            loss, sums = self._outcome(self.model, part)
            total = float(loss)
        kinds = sorted(sums)
        divisor, *values = self.layout.sums([self.objective.count(part), total, *(sums[kind] for kind in kinds)], "cp")
        total, *values = (value * units / divisor for value in values)
        return total, dict(zip(kinds, values, strict=True))

    def save(self) -> None:
        """Write a checkpoint in the background."""
        if self.keeper is not None:
            self.keeper.save(
                self.model,
                self.optimizer,
                self.progress,
                self.packer.state(),
                **self.keep_also,
            )

    def _not_finite(self, batch: list[Row], loss: float, norm: float) -> None:
        names = sorted({self.packer.sources[p.source].names(p.sample) for row in batch for p in row})
        self.log(event="not finite", step=self.progress.step, loss=repr(loss), norm=repr(norm), samples=names)
        if self.recipe.optimizer.nonfinite == "stop":
            raise TrainingError(
                f"step {self.progress.step}: loss {loss}, gradient norm {norm}; nothing was updated; the samples are in the log "
                f"({', '.join(names[:3])}, ...); lower schedule.peak, or set optimizer.nonfinite to skip"
            )


def in_order(source: Any, number: int, length: int) -> Iterator[list[Row]]:
    """Every sample of a source once, in its own order, as batches of one row; texts are cut where a row ends."""
    from herd.train.packing import Piece

    row: Row = []
    room = length
    for sample in range(len(source)):
        start, end = 0, source.positions(sample)
        while start < end:
            if row and (room == 0 or (not source.may_be_cut and end - start > room)):
                yield [row]
                row, room = [], length
            stop = min(end, start + room)
            row.append(Piece(number, sample, start, stop))
            room -= stop - start
            start = stop
    if row:
        yield [row]
