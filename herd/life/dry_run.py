"""What a recipe would do, without doing it: every setting checked, what is missing named, and what large stages take by the planner."""

from typing import Any

import msgspec

from herd.config import read
from herd.errors import ConfigError
from herd.family import shape
from herd.life.kinds import typed
from herd.life.recipe import Stage
from herd.life.run import made
from herd.plan.constants import gpu, stack
from herd.plan.layout import Work
from herd.plan.search import search


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A stage on many machines: `tokens` through a named shape in steps of `batch` tokens, rows of `context`."""

    model: str
    gpus: int
    tokens: float
    batch: int
    context: int
    gpu: str = "h100"
    stack: str = "meta"


def row(stage: Stage) -> dict[str, Any]:
    """A stage as the dry run shows it. ConfigError where a setting cannot be."""
    typed(stage)
    state = "made" if made(stage) else (f"{stage.missing[0]} is missing" if stage.missing else "to do")
    found: dict[str, Any] = {"stage": stage.name, "kind": stage.kind, "from": ", ".join(stage.needs), "budget": stage.minutes, "state": state}  # fmt: skip
    return {**found, **(plan(stage) if stage.plan else {})}


def plan(stage: Stage) -> dict[str, Any]:
    """The fastest layout of a stage and what it takes."""
    try:
        asked = read(Planned, values=stage.plan)
        accelerator, software = gpu(asked.gpu), stack(asked.stack)
        work = Work(shape(asked.model), asked.context, asked.batch, software.precision)
        found = search(work, asked.gpus, accelerator, software)
    except ConfigError as error:
        raise ConfigError(f"stages.{stage.name}.plan: {error}") from error
    if not found.plans:
        raise ConfigError(f"stages.{stage.name}.plan: no layout of {asked.gpus:,} GPUs fits: {found.reasons()[0][0]}")
    best = found.plans[0]
    cost = best.cost(work, accelerator, asked.tokens)
    return {"layout": str(best.layout), "MFU": f"{best.mfu:.0%}", "GB": best.memory.total / 1e9, **{k: cost[k] for k in ("days", "gpu_hours", "dollars")}}  # fmt: skip
