"""A parallel layout and the work it divides: what is impossible says why."""

from dataclasses import dataclass

from herd.family import ModelConfig
from herd.plan.constants import Gpu


@dataclass(frozen=True)
class Work:
    """A step of training: a model, `context` tokens a sequence, `batch` tokens a step, in `precision` bf16 or fp8."""

    model: ModelConfig
    context: int
    batch: int
    precision: str = "bf16"

    @property
    def flops_per_token(self) -> float:
        """Of forward and backward: 6 (N - V d) + 6 L d T; attention is causal, the embedding is looked up, not multiplied."""
        m = self.model
        return 6 * (m.matmul_parameters + m.layers * m.heads * m.head_dim * self.context)

    @property
    def flops_per_token_without_halving(self) -> float:
        """The same if attention were counted as though every token saw all others, as some published figures are."""
        m = self.model
        return self.flops_per_token + 6 * m.layers * m.heads * m.head_dim * self.context


@dataclass(frozen=True)
class Layout:
    """Degrees of tensor, context, pipeline and data parallelism, pipeline stages a GPU, sequences a micro-batch.

    `recompute` is none, or full: layers keep their input alone and are computed again. `sharded`: weights and gradients are
    sharded over the data parallel ranks too (FSDP that reshards, ZeRO-3); without it only optimizer state is.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    virtual: int = 1
    micro_batch: int = 1
    recompute: str = "none"
    sharded: bool = False

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tp * self.cp * self.pp * self.dp

    def micro_batches(self, work: Work) -> int:
        """Micro-batches that a pipeline runs through in a step."""
        return work.batch // (work.context * self.dp * self.micro_batch)

    def slots(self, model: ModelConfig) -> int:
        """Layers of the longest stage; embedding and output head take a layer's place each, as Meta lays them out."""
        if self.pp == 1:
            return model.layers
        return -(-(model.layers + 2) // (self.pp * self.virtual)) * self.virtual

    def __str__(self) -> str:
        extra = f", {self.virtual} virtual stages" if self.virtual > 1 else ""
        extra += ", sharded weights" if self.sharded else ""
        extra += ", recomputed" if self.recompute == "full" else ""
        return f"TP{self.tp} CP{self.cp} PP{self.pp} DP{self.dp}, micro-batch {self.micro_batch}{extra}"


def impossible(layout: Layout, work: Work, gpu: Gpu) -> str | None:
    """Why a layout cannot be, or None."""
    m, a = work.model, layout
    if m.heads % a.tp or m.ffn_dim % a.tp or (a.tp > m.kv_heads and a.tp % m.kv_heads):
        return f"TP does not divide: {a.tp} and {m.heads} heads, {m.kv_heads} key-value heads and {m.ffn_dim} of the feed-forward"
    if a.tp > gpu.node:
        return f"TP leaves the server: {a.tp} of {gpu.node} GPUs"
    if work.context % (2 * a.cp):
        return f"CP does not divide: {work.context:,} tokens into {2 * a.cp} chunks"
    if a.pp * a.virtual > m.layers + 2 * (a.pp > 1):
        return f"more stages than layers: {a.pp} of {a.virtual} pieces, {m.layers} layers"
    if a.virtual > 1 and a.pp == 1:
        return "virtual stages without a pipeline: PP is 1"
    if a.sharded and a.pp > 1:
        return "sharded weights in a pipeline: they would be gathered anew for each micro-batch"
    per_pipeline = work.batch / (work.context * a.dp * a.micro_batch)
    if per_pipeline < 1:
        return f"batch too small: {work.batch // work.context:,} sequences for {a.dp} replicas of micro-batches of {a.micro_batch}"
    if per_pipeline != int(per_pipeline):
        return f"batch does not divide: {work.batch // work.context:,} sequences into {a.dp} replicas of micro-batches of {a.micro_batch}"
    return None
