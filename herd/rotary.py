"""Rotary embedding: how far a position turns each pair, with the scalings that stretch a context.

Every backend and every format takes its frequencies from here. Sources: RoPE (arXiv 2104.09864), linear interpolation
(arXiv 2306.15595), YaRN (arXiv 2309.00071), and Meta's `apply_scaling` for Llama 3.1.
"""

import math
import struct
from array import array
from dataclasses import dataclass

from herd.errors import ConfigError

KINDS = ("llama3", "linear", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """How a model's context was stretched beyond `original_context` tokens, `factor` times.

    llama3: wavelengths beyond original_context / low_freq_factor are stretched, those below original_context /
    high_freq_factor kept, those between blended. linear: all are stretched. yarn: pairs that turn less than `beta_slow`
    times within the original context are stretched, those that turn more than `beta_fast` times kept, those between
    blended; `truncate` rounds the two ends to whole pairs. Queries and keys grow by `attention_factor`
    (None: 0.1 ln(factor) + 1 for yarn, else 1). ConfigError for what is impossible.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    kind: str = "llama3"
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"rope scaling: kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        possible = (
            1 <= self.factor < math.inf
            and 0 < self.low_freq_factor < self.high_freq_factor < math.inf
            and 0 < self.beta_slow < self.beta_fast < math.inf
            and 0 < self.original_context <= 2**31
            and (self.attention_factor is None or 0 < self.attention_factor < math.inf)
        )
        if not possible:
            raise ConfigError(f"rope scaling: {self} is impossible; expected factor >= 1, low < high and slow < fast")

    @property
    def gain(self) -> float:
        """What cosines and sines are multiplied with."""
        if self.attention_factor is not None:
            return self.attention_factor
        return yarn_gain(self.factor) if self.kind == "yarn" else 1.0


def yarn_gain(factor: float, weight: float = 1.0) -> float:
    """YaRN's attention factor, 0.1 * weight * ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> "array[float]":
    """Radians that a position turns each of the head_dim / 2 pairs, float32; unscaled ones rounded after every
    operation, as in Meta's and transformers' code.
    """
    exponents = array("f", (pair / head_dim for pair in range(0, head_dim, 2)))
    plain = array("f", (1 / base for base in array("f", (theta**e for e in exponents))))
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return array("f", (f / scaling.factor for f in plain))
    if scaling.kind == "llama3":
        return array("f", (f / d for f, d in zip(plain, llama3_divisors(head_dim, theta, scaling), strict=True)))
    first, last = yarn_range(head_dim, theta, scaling)
    width = max(last - first, 0.001)
    kept = (1 - min(max((i - first) / width, 0.0), 1.0) for i in range(head_dim // 2))
    return array("f", (f / scaling.factor * (1 - k) + f * k for f, k in zip(plain, kept, strict=True)))


def llama3_divisors(head_dim: int, theta: float, scaling: RopeScaling) -> list[float]:
    """What Llama 3.1's scaling divides each frequency by, float32 values: GGUF's `rope_freqs.weight`."""
    divisors = []
    for pair in range(0, head_dim, 2):
        turns = scaling.original_context * theta ** -(pair / head_dim) / (2 * math.pi)
        smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        smooth = min(max(smooth, 0.0), 1.0)
        divisors.append(float32(1 / ((1 - smooth) / scaling.factor + smooth)))
    return divisors


def yarn_range(head_dim: int, theta: float, scaling: RopeScaling) -> tuple[float, float]:
    """Pairs before the first number keep their frequency, pairs after the last are stretched whole; ConfigError where
    there are none (`find_correction_range` of YaRN's authors' code).
    """
    if theta <= 1:
        raise ConfigError(f"rope scaling: yarn needs a rope_theta above 1; found {theta}")

    def pair_that_turns(times: float) -> float:
        return head_dim * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first > last:
        raise ConfigError(f"rope scaling: {scaling} leaves no pair between its betas at rope_theta {theta}")
    return first, last


def float32(value: float) -> float:
    """The nearest float32."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf
