"""What the inputs of each matrix look like on some text: the sums of x x^T that calibrated quantization needs."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from herd.family import ModelConfig
from herd.model.llama import Transformer
from herd.model.load import from_checkpoint
from herd.progress import Progress, silent
from herd.weights.checkpoint import Checkpoint

MAX_BYTES = 4 << 30


def moments_fit(config: ModelConfig) -> bool:
    """Whether full moments of all layers fit the memory that calibration allows itself."""
    wide = 3 * config.dim**2 + config.ffn_dim**2
    return config.layers * wide * 4 <= MAX_BYTES


def checkpoint_moments(
    source: Checkpoint, chunks: list[list[int]], progress: Progress = silent
) -> dict[str, NDArray[np.float32]]:
    """`input_moments` of a checkpoint's model in float32."""
    return input_moments(from_checkpoint(source.config, source.tensors, torch.float32), chunks, progress)


@torch.inference_mode()
def input_moments(
    model: Transformer, chunks: list[list[int]], progress: Progress = silent
) -> dict[str, NDArray[np.float32]]:
    """For each matrix of the layers, the sum over all tokens of x x^T [columns, columns], or its diagonal if too large."""
    full = moments_fit(model.config)
    sums: dict[str, Tensor] = {}

    def watch(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2).float()
        found = x.T @ x if full else x.pow(2).sum(0)
        sums[name] = sums[name] + found if name in sums else found

    # q, k and v share an input, as do gate and up: one of each is watched
    watched = [
        (name, module)
        for name, module in model.named_modules()
        if name.startswith("layers.") and name.endswith((".wq", ".wo", ".w1", ".w2"))
    ]
    handles = [module.register_forward_pre_hook(partial(watch, name)) for name, module in watched]
    try:
        for done, chunk in enumerate(chunks, 1):
            model(torch.tensor([chunk]))
            progress("calibrating", done, len(chunks))
    finally:
        for handle in handles:
            handle.remove()
    shared = {"wk": "wq", "wv": "wq", "w3": "w1"}
    moments = {f"{name}.weight": value.numpy() for name, value in sums.items()}
    for name in list(moments):
        for twin, source in shared.items():
            if name.endswith(f".{source}.weight"):
                moments[name.replace(f".{source}.", f".{twin}.")] = moments[name]
    return moments
