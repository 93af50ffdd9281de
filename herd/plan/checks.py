"""Published runs beside what the planner says of them: what the stacks were fitted to, and everything else as predictions."""

from dataclasses import dataclass

from herd.family import shape
from herd.plan.constants import GPUS, STACKS
from herd.plan.layout import Layout, Work
from herd.plan.search import fitted
from herd.plan.time import step_time


@dataclass(frozen=True)
class Published:
    """A measured run. `tflops` a GPU and `tokens` a second a GPU, as printed; None where it was not."""

    name: str
    stack: str
    gpu: str
    layout: Layout
    work: Work
    tflops: float | None
    tokens: float | None
    fits: bool = False  # whether the stack's efficiency was fitted to it

    @property
    def rate(self) -> float:
        """Tokens a second a GPU, from the FLOPs where they alone were printed."""
        return self.tokens if self.tokens is not None else (self.tflops or 0) * 1e12 / self.work.flops_per_token

    def predicted(self) -> float:
        """What the planner says, tokens a second a GPU."""
        time = step_time(self.layout, self.work, GPUS[self.gpu], STACKS[self.stack])
        return self.work.batch / time.total / self.layout.gpus

    def efficiency(self) -> float:
        """The stack's efficiency if it were fitted to this run."""
        return fitted(STACKS[self.stack], self.layout, self.work, GPUS[self.gpu], self.rate)


_405B, _70B, _8B = shape("llama-3.1-405b"), shape("llama-3.1-70b"), shape("llama-3.1-8b")
_16M = 1 << 24
PUBLISHED = (
    Published("Llama 3 paper, Table 4, row 1: 405B on 8,192", "meta", "h100",
              Layout(8, 1, 16, 64, 8), Work(_405B, 8192, _16M), 430, None, True),
    Published("row 2: on 16,384", "meta", "h100", Layout(8, 1, 16, 128, 8), Work(_405B, 8192, _16M), 400, None),
    Published("row 3: 131,072 tokens, CP 16", "meta", "h100",
              Layout(8, 16, 16, 8, 8), Work(_405B, 131072, _16M), 380, None),
    Published("Megatron-Bridge 25.09: 405B on 1,024, FP8", "nvidia", "h100",
              Layout(8, 2, 8, 8, 8), Work(_405B, 8192, 512 * 8192, "fp8"), 763, 302, True),
    Published("torchtitan: 8B on 8, bf16", "torchtitan", "h100-96gb",
              Layout(1, 1, 1, 8, sharded=True), Work(_8B, 8192, 8 * 8192), None, 5762, True),
)  # fmt: skip

CONVERSIONS = (("llama-3.1-8b", 14_079, 725), ("llama-3.1-70b", 1_619, 727), ("llama-3.1-405b", 302, 763))
"""NVIDIA's tokens a second a GPU and TFLOPs a GPU, at 8,192 tokens."""


def conversions() -> list[tuple[str, float, float, float]]:
    """Model, TFLOPs as NVIDIA prints them, as our count of FLOPs gives them, relative error."""
    rows = []
    for name, tokens, printed in CONVERSIONS:
        ours = tokens * Work(shape(name), 8192, 8192).flops_per_token / 1e12
        rows.append((name, float(printed), ours, ours / printed - 1))
    return rows
