"""Try every layout, keep those that fit, sort by the time of a step; those that do not fit say why."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from herd.errors import ConfigError
from herd.plan.constants import KG_CO2_PER_KWH, OTHER_WATTS, PUE, Gpu, Stack
from herd.plan.layout import Layout, Work, impossible
from herd.plan.memory import Memory, memory
from herd.plan.time import Time, step_time

_DEGREES = tuple(1 << i for i in range(16))


@dataclass(frozen=True)
class Plan:
    """A layout that fits, and what it takes."""

    layout: Layout
    memory: Memory
    time: Time
    tokens_per_second_per_gpu: float
    tflops_per_gpu: float
    mfu: float  # of the bf16 peak, or of FP8's where the plan computes in it

    def cost(self, work: Work, gpu: Gpu, tokens: float) -> dict[str, float]:
        """Days, GPU hours, dollars, kWh and tonnes of CO2 of `tokens` tokens; assumptions are in herd.plan.constants."""
        seconds = tokens / work.batch * self.time.total
        hours = seconds / 3600 * self.layout.gpus
        kwh = hours * gpu.watts / 1000 * OTHER_WATTS
        return {
            "days": seconds / 86400,
            "gpu_hours": hours,
            "dollars": hours * gpu.dollars_per_hour,
            "kwh": kwh * PUE,
            "tonnes_co2": kwh * KG_CO2_PER_KWH / 1000,
        }


@dataclass(frozen=True)
class Found:
    """Plans, the fastest first, one a choice of degrees; and the layouts that do not go, each with its reason."""

    plans: tuple[Plan, ...]
    rejected: tuple[tuple[Layout, str], ...]

    def reasons(self) -> list[tuple[str, int, Layout]]:
        """Kinds of reasons, how often each, and the layout that came nearest first of each kind."""
        kinds = Counter(reason.split(":")[0] for _, reason in self.rejected)
        first: dict[str, Layout] = {}
        for layout, reason in self.rejected:
            first.setdefault(reason.split(":")[0], layout)
        return [(kind, count, first[kind]) for kind, count in kinds.most_common()]


def _candidates(work: Work, gpus: int, gpu: Gpu) -> Iterator[Layout]:
    for tp in _DEGREES:
        for cp in _DEGREES:
            for pp in _DEGREES:
                if tp > gpu.node or tp * cp * pp > gpus or pp > work.model.layers:
                    continue
                if gpus % (tp * cp * pp):
                    continue
                dp = gpus // (tp * cp * pp)
                pieces = [1] if pp == 1 else [v for v in _DEGREES[:5] if v * pp <= work.model.layers + 2]
                for virtual in pieces:
                    for micro_batch in _DEGREES[:5]:
                        for recompute in ("none", "full"):
                            for sharded in (False, True) if pp == 1 else (False,):
                                yield Layout(tp, cp, pp, dp, virtual, micro_batch, recompute, sharded)


def evaluate(layout: Layout, work: Work, gpu: Gpu, stack: Stack) -> Plan | str:
    """The plan of one layout, or why it does not go."""
    reason = impossible(layout, work, gpu)
    if reason:
        return reason
    tokens = work.context * layout.micro_batch // layout.cp
    if tokens < stack.least_tokens:
        return f"smaller than anything measured: {tokens:,} tokens a GPU and micro-batch, {stack.name} has {stack.least_tokens:,}"
    needed = memory(layout, work, stack)
    if needed.total > gpu.memory:
        largest = max(("weights", "gradients", "optimizer", "activations", "logits"), key=lambda p: getattr(needed, p))
        size, part = needed.total / 1e9, getattr(needed, largest) / 1e9
        return f"does not fit {gpu.memory / 1e9:.0f} GB: needs {size:,.0f} GB, {part:,.0f} of them {largest}"
    time = step_time(layout, work, gpu, stack)
    rate = work.batch / time.total / layout.gpus
    flops = rate * work.flops_per_token
    return Plan(layout, needed, time, rate, flops / 1e12, flops / gpu.peak(work.precision))


def search(work: Work, gpus: int, gpu: Gpu, stack: Stack) -> Found:
    """All layouts of `gpus` GPUs. ConfigError where the numbers themselves cannot be."""
    if gpus < 1 or work.batch % work.context:
        raise ConfigError(
            f"{gpus} GPUs and a batch of {work.batch:,} tokens: expected a GPU or more and whole sequences of {work.context:,}"
        )
    if stack.precision != work.precision:
        gpu.peak(work.precision)
    best: dict[tuple[int, int, int, int], Plan] = {}
    rejected = []
    for layout in _candidates(work, gpus, gpu):
        found = evaluate(layout, work, gpu, stack)
        if isinstance(found, str):
            rejected.append((layout, found))
            continue
        degrees = (layout.tp, layout.cp, layout.pp, layout.dp)
        before = best.get(degrees)
        if before is None or found.time.total < before.time.total:
            best[degrees] = found
        slower = layout if before is None or found.time.total >= before.time.total else before.layout
        if before is not None:
            rejected.append((slower, f"slower than the same degrees otherwise: {best[degrees].layout}"))
    return Found(tuple(sorted(best.values(), key=lambda plan: plan.time.total)), tuple(rejected))


def fitted(stack: Stack, layout: Layout, work: Work, gpu: Gpu, tokens_per_second_per_gpu: float) -> float:
    """The `efficiency` with which a stack reaches a measured rate, to nine digits."""
    low, high = 0.01, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        time = step_time(layout, work, gpu, replace(stack, efficiency=middle)).total
        rate = work.batch / time / layout.gpus
        low, high = (middle, high) if rate < tokens_per_second_per_gpu else (low, middle)
    if math.isclose(low, 1.0):
        raise ConfigError(f"{stack.name}: {tokens_per_second_per_gpu} tokens/s a GPU is more than the hardware can do")
    return low
