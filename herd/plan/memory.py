"""Bytes that training takes on the fullest GPU, by part."""

from dataclasses import dataclass, fields

from herd.plan.constants import Stack
from herd.plan.layout import Layout, Work


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU. Gradients are float32 where they are accumulated over micro-batches, as Llama 3's were."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    reserve: float

    @property
    def total(self) -> float:
        """All parts."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def layer_activations(work: Work, saves: str, recompute: str = "none") -> float:
    """Bytes that one token leaves in one layer for the backward pass, over all tensor parallel ranks, in bf16.

    Inputs of norms, products and attention (Korthikanti et al., arXiv 2205.05198, with SwiGLU, grouped queries and no stored
    scores). "lean" computes norms' outputs and the SwiGLU product again; "full" recomputation keeps the layer's input alone.
    """
    m = work.model
    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    if recompute == "full":
        return 2.0 * m.dim
    kept = (
        2 * m.dim + q + 2 * kv + q + 2 * m.ffn_dim
    )  # inputs of both norms; queries, keys, values; their mix; gate, up
    again = 2 * m.dim + m.ffn_dim  # outputs of both norms; the product
    return 2.0 * (kept + (again if saves == "all" else 0)) + 4.0 * m.heads


def layers_in_flight(layout: Layout, work: Work) -> float:
    """Layers times micro-batches whose activations the first stage holds at once (1F1B, interleaved: Megatron, arXiv 2104.04473)."""
    slots, count = layout.slots(work.model), layout.micro_batches(work)
    if layout.pp == 1:
        return slots
    held = layout.pp if layout.virtual == 1 else layout.pp + (layout.pp - 1) / layout.virtual
    return slots * min(held, count)


def memory(layout: Layout, work: Work, stack: Stack) -> Memory:
    """What the fullest GPU holds in a step."""
    m = work.model
    per_layer = (m.parameters - m.vocab * m.dim * (1 if m.tied else 2) - m.dim) / m.layers
    tables = m.vocab * m.dim * ((1 if m.tied else 2) if layout.pp == 1 else 0)
    parameters = (layout.slots(m) * per_layer + tables) / layout.tp
    if layout.pp > 1:  # the first stage has the embedding and a layer less
        parameters = max(parameters, (parameters * layout.tp - per_layer + m.vocab * m.dim) / layout.tp)
    ranks = layout.dp * layout.cp
    shards = ranks if layout.sharded else 1
    whole = 2 * 2 * per_layer / layout.tp if layout.sharded and ranks > 1 else 0.0  # two layers gathered at a time
    tokens = work.context * layout.micro_batch / layout.cp
    held = layers_in_flight(layout, work) * layer_activations(work, stack.saves, layout.recompute)
    if layout.recompute == "full":
        held += layer_activations(work, stack.saves)
    return Memory(
        weights=2 * parameters / shards + whole,
        gradients=4 * parameters / shards,
        optimizer=12 * parameters / ranks,
        activations=tokens * held / layout.tp,
        logits=tokens * m.vocab * 6 / layout.tp if layout.pp == 1 else tokens * m.vocab * 6 / layout.tp / layout.pp,
        reserve=stack.reserve,
    )
