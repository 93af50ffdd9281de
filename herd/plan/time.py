"""Seconds of a training step, term by term."""

from dataclasses import dataclass

from herd.plan.constants import COLLECTIVE_SECONDS, HOP_SECONDS, Gpu, Stack
from herd.plan.layout import Layout, Work


@dataclass(frozen=True)
class Time:
    """Seconds a step: products on the longest stage, communication that nothing hides, and what the pipeline waits."""

    compute: float
    tensor: float
    context: float
    pipeline: float
    bubble: float
    data: float

    @property
    def total(self) -> float:
        """The step."""
        return self.compute + self.tensor + self.context + self.pipeline + self.bubble + self.data


def step_time(layout: Layout, work: Work, gpu: Gpu, stack: Stack) -> Time:
    """Of one step of training.

    Four collectives a layer and direction with sequence parallelism (arXiv 2205.05198); context parallelism gathers keys and values
    forward, and again with their gradients' reduction backward (arXiv 2407.21783, 3.3.2); the pipeline waits (PP - 1) / (V M) of
    its work (arXiv 2104.04473); data parallel ranks gather weights in bf16 and reduce gradients in float32.
    """
    m, count = work.model, layout.micro_batches(work)
    slots, tokens = layout.slots(m), work.context * layout.micro_batch / layout.cp
    again = 4 / 3 if layout.recompute == "full" else 1.0
    # flops of a place: a layer, or the output head where it weighs more
    layer = (work.flops_per_token - 6 * m.vocab * m.dim) / m.layers
    stage = slots * max(layer, 6 * m.vocab * m.dim) if layout.pp > 1 else work.flops_per_token
    compute = count * tokens * stage * again / layout.tp / (gpu.peak(work.precision) * stack.efficiency)

    passes = 8 * (1.5 if layout.recompute == "full" else 1.0)
    tensor = count * slots * passes * ring(layout.tp, 1, tokens * m.dim * 2, gpu) * stack.tp_exposed
    gathered = work.context * layout.micro_batch * 4 * m.kv_heads * m.head_dim / min(layout.tp, m.kv_heads)
    context = count * slots * 3 * ring(layout.cp, layout.tp, gathered, gpu) * stack.cp_exposed
    sent = 0.0 if layout.pp == 1 else 2 * layout.virtual * tokens * m.dim * 2 / layout.tp / gpu.network
    pipeline = count * sent * stack.pp_exposed
    bubble = (compute + tensor + context + pipeline) * (layout.pp - 1) / (layout.virtual * count)
    held = m.parameters / (layout.tp * layout.pp) / slots  # a layer at a time
    parts = (2, 2, 4) if layout.sharded else (2, 4)  # bytes of a weight: gathered, gathered again backward, reduced
    moved = slots * sum(ring(layout.dp * layout.cp, layout.tp, held * part, gpu) for part in parts)
    moved *= count if layout.sharded else 1
    # what has no other layer's work beside it: the first and last piece of a stage
    pieces = layout.virtual if layout.pp > 1 else m.layers
    data = max(moved * stack.dp_exposed / pieces, moved - compute)
    return Time(compute, tensor, context, pipeline, bubble, data)


def ring(ranks: int, apart: int, size: float, gpu: Gpu) -> float:
    """Seconds to gather, or reduce and scatter, `size` bytes over `ranks` that lie `apart` GPUs from one another."""
    if ranks == 1:
        return 0.0
    inside = max(1, gpu.node // apart)  # ranks in one server
    servers = -(-ranks // inside)
    hops = (ranks - servers) * HOP_SECONDS["link"] + (servers - 1) * HOP_SECONDS["network"]
    speed = gpu.link if servers == 1 else gpu.network
    return COLLECTIVE_SECONDS + hops + (ranks - 1) / ranks * size / speed
