"""What the planner's figures rest on: hardware from its makers' data sheets, and what software stacks reach on it.

No one efficiency fits every stack (NVIDIA's, torchtitan's and Meta's differ by half), so each has a name, the run it was fitted to
and its own assumptions about what communication hides behind computation.
"""

from dataclasses import dataclass

from herd.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """One accelerator in its usual server. FLOP/s are dense, bandwidths bytes a second a direction, `node` GPUs a server."""

    name: str
    bf16: float
    fp8: float  # 0: has none
    memory: float  # bytes
    bandwidth: float
    link: float
    network: float
    node: int
    watts: float
    dollars_per_hour: float  # an assumption, not a quote
    source: str

    def peak(self, precision: str) -> float:
        """FLOP/s of matrix products in `precision`; ConfigError where it has none."""
        if precision not in ("bf16", "fp8"):
            raise ConfigError(f"precision {precision!r}: expected bf16 or fp8")
        if precision == "fp8" and not self.fp8:
            raise ConfigError(f"{self.name} has no FP8 units; use bf16")
        return self.fp8 if precision == "fp8" else self.bf16


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 312e12, 0, 80e9, 2.039e12, 300e9, 25e9, 8, 400, 1.5, "NVIDIA A100 80GB SXM data sheet; HDR 200 Gb/s"),
        Gpu("h100", 989e12, 1979e12, 80e9, 3.35e12, 450e9, 50e9, 8, 700, 2.5, "NVIDIA H100 SXM data sheet; 400 Gb/s a GPU, as arXiv 2407.21783"),
        Gpu("h100-96gb", 989e12, 1979e12, 96e9, 2.4e12, 450e9, 50e9, 8, 700, 2.5, "H100 96GB HBM2e of torchtitan's published runs"),
        Gpu("h200", 989e12, 1979e12, 141e9, 4.8e12, 450e9, 50e9, 8, 700, 3.2, "NVIDIA H200 SXM data sheet"),
        Gpu("b200", 2250e12, 4500e12, 180e9, 7.7e12, 900e9, 50e9, 8, 1000, 5.0, "NVIDIA DGX B200 data sheet"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """What training software makes of the hardware.

    `efficiency` is the share of the peak that its matrix products reach by themselves. `exposed` shares of communication are not
    hidden behind computation: tensor parallel, context parallel, between pipeline stages, and of the data parallel gathers what no
    other layer's work covers. `saves` is what the backward pass finds in memory: "all" inputs of products, or "lean", where norms'
    outputs and the SwiGLU product are computed again. `reserve` are bytes of the runtime, libraries and buffers.
    """

    name: str
    efficiency: float
    precision: str
    tp_exposed: float
    cp_exposed: float
    pp_exposed: float
    dp_exposed: float
    saves: str
    reserve: float
    least_tokens: int  # a GPU and micro-batch, where the efficiency was measured; with fewer nothing is known
    fitted_to: str


# `efficiency` of each is what `fit` in herd.plan.checks gives; a test recomputes it.
STACKS: dict[str, Stack] = {
    stack.name: stack
    for stack in (
        Stack(
            "meta", 0.51919, "bf16", 1.0, 1.0, 0.0, 1.0, "lean", 3e9, 8192,
            "arXiv 2407.21783, Table 4, row 1: 405B on 8,192 H100, 430 TFLOPs a GPU",
        ),
        Stack(
            "nvidia", 0.43846, "fp8", 0.5, 0.5, 0.0, 0.5, "lean", 4e9, 4096,
            "Megatron-Bridge 25.09: 405B on 1,024 H100 in FP8, 763 TFLOPs a GPU",
        ),
        Stack(
            "torchtitan", 0.30029, "bf16", 1.0, 1.0, 1.0, 0.5, "all", 4e9, 8192,
            "torchtitan's published 8B on 8 H100 in bf16, 5,762 tokens/s a GPU",
        ),
    )
}  # fmt: skip

COLLECTIVE_SECONDS = 8.4e-6
HOP_SECONDS = {"link": 3.4e-6, "network": 9.6e-6}
"""What a ring costs beside its bytes: once, and for each step within a server and between servers (NCCL's own tuning table)."""
PUE = 1.1
"""Watts of a data centre for each watt of its servers' accelerators (an assumption; Meta reports 1.08 for its own)."""
OTHER_WATTS = 1.0
"""All power of a server for each watt of its accelerators; 1 as Llama 3.1's model card counts (700 W a GPU, nothing else)."""
KG_CO2_PER_KWH = 0.414
"""Llama 3.1's model card: 8,930 t for 30.84 M GPU hours of 700 W, location-based."""


def gpu(name: str) -> Gpu:
    """The named accelerator; ConfigError with the names."""
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: unknown; expected one of {', '.join(GPUS)}")
    return GPUS[name]


def stack(name: str) -> Stack:
    """The named software stack; ConfigError with the names."""
    if name not in STACKS:
        raise ConfigError(f"--stack {name}: unknown; expected one of {', '.join(STACKS)}")
    return STACKS[name]
