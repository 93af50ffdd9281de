"""What serves a model at a context and a load: bytes of weights and cache, how many GPUs, how fast at best."""

import math
from dataclasses import dataclass

from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.plan.constants import Gpu
from herd.quant import formats

RESERVE = 4e9
"""Bytes a GPU for the runtime, activations and buffers."""


@dataclass(frozen=True)
class Service:
    """The smallest number of GPUs that holds weights and cache, tensor parallel within a server, pipeline over servers."""

    gpus: int
    tp: int
    pp: int
    weights: float  # bytes in all
    cache: float  # bytes in all
    room: float  # bytes left over all GPUs
    decode: float  # tokens a second of one sequence, if memory were all that counted
    decode_all: float  # of all sequences together
    prefill: float  # tokens a second at the matrix units' peak


def weight_bytes(model: ModelConfig, numbers: str) -> float:
    """Bytes of the weights in bf16, or in fp8 as Meta's 405B: feed-forward matrices but the first and last layer's, with a float32
    scale a row (arXiv 2407.21783, 6.2), everything else in bf16; or in any format of herd.quant.
    """
    if numbers == "fp8":
        inner = max(0, model.layers - 2)
        matrices = inner * 3 * model.dim * model.ffn_dim
        return matrices + inner * (2 * model.ffn_dim + model.dim) * 4 + 2 * (model.parameters - matrices)
    return float(formats.weight_bytes(model, "BF16" if numbers == "bf16" else numbers))


def serve(
    model: ModelConfig, gpu: Gpu, *, context: int, sequences: int = 1, numbers: str = "bf16", cache_bytes: float = 2
) -> Service:
    """What holds `sequences` of `context` tokens at once; ConfigError when no sensible number of GPUs does."""
    if context < 1 or sequences < 1:
        raise ConfigError(f"context {context} and {sequences} sequences: expected 1 or more of each")
    if context > model.context:
        raise ConfigError(f"context {context:,}: the model takes {model.context:,} tokens")
    weights = weight_bytes(model, numbers)
    cache = float(sequences * context * model.kv_bytes_per_token(cache_bytes))
    for gpus in (2**i for i in range(13)):
        tp = min(gpus, gpu.node, model.heads)
        pp = gpus // tp
        if model.heads % tp or pp > model.layers:
            continue
        copies = max(1, tp / model.kv_heads)  # a key-value head that more ranks share is held by each
        room = gpus * (gpu.memory - RESERVE) - weights - cache * copies
        if room >= 0:
            speed = tp * gpu.bandwidth  # stages work one after another for a sequence, at once for several
            alone = speed / (weights + cache / sequences)
            together = sequences * speed / (weights + cache / min(pp, sequences))
            return Service(
                gpus, tp, pp, weights, cache, room, alone, together, gpus / _prefill(model, gpu, context, numbers)
            )
    raise ConfigError(
        f"{sequences} sequences of {context:,} tokens need {(weights + cache) / 1e12:,.1f} TB; more than 4,096 {gpu.name} hold"
    )


def _prefill(model: ModelConfig, gpu: Gpu, context: int, numbers: str) -> float:
    """GPU seconds of a prompt's token at the matrix units' peak, attention over half of `context`."""
    flops = model.flops_per_token(context // 2)
    eighth = 2 * (model.layers - 2) * 3 * model.dim * model.ffn_dim if numbers == "fp8" else 0
    return (flops - eighth) / gpu.bf16 + (eighth / gpu.peak("fp8") if eighth else 0.0)


def largest_context(model: ModelConfig, memory: float, numbers: str, cache_bytes: float = 2) -> int:
    """Tokens of one sequence that fit `memory` bytes beside the weights, no more than the model takes; 0 for none."""
    left = memory - weight_bytes(model, numbers)
    return max(0, min(model.context, math.floor(left / model.kv_bytes_per_token(cache_bytes))))
