"""Learn the scales of a quantized model: its codes stay, and block scales, minima and norms are trained until it answers as the
original does.

The loss is the Kullback-Leibler divergence from the original model's next-token distributions on some text (distillation, Hinton
et al., arXiv 1503.02531); training scales alone with fixed codes is the second phase of EfficientQAT (arXiv 2407.11062).
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herd.model.llama import Transformer
from herd.model.load import from_checkpoint
from herd.progress import Progress, silent
from herd.quant.dequantize import dequantize
from herd.quant.formats import number_format
from herd.weights.checkpoint import Checkpoint, StoredTensor

HALVES = {"Q4_0": 1, "Q8_0": 1, "Q4_1": 2}
"""Formats of calibrated rounding: their blocks of 32 start with a scale, or a scale and a minimum, in halves."""
RATE, WARMUP, BATCH = 1e-3, 8, 2  # of Adam, relative to each scale; steps; chunks a step


class _Scaled(nn.Module):
    """A matrix of codes times trained scales: weight = scale * code + minimum in each block of 32."""

    def __init__(self, stored: StoredTensor) -> None:
        super().__init__()
        self.stored, self.halves = stored, HALVES[stored.format]
        self.raw = np.frombuffer(stored.raw(), np.uint8).reshape(-1, number_format(stored.format).bytes)
        unit = self.raw.copy()
        unit[:, : 2 * self.halves].view(np.float16)[:] = np.array([1, 0][: self.halves], np.float16)
        codes = dequantize(unit.reshape(-1), stored.format, stored.shape).reshape(-1, 32)
        heads = self.raw[:, : 2 * self.halves].copy().view(np.float16).astype(np.float32)
        self.codes = torch.from_numpy(codes.astype(np.int8))
        self.start = torch.from_numpy(heads)
        self.change = nn.Parameter(torch.zeros_like(self.start))

    def heads(self) -> Tensor:
        """Scales, or scales and minima, [blocks, halves]; both change by parts of the scale, a minimum by eighths of a block's range."""
        step = self.start[:, :1] * torch.tensor([1.0, 8.0][: self.halves])
        return self.start + step * self.change

    def forward(self, x: Tensor) -> Tensor:
        heads = self.heads()
        weight = self.codes * heads[:, :1]
        if self.halves == 2:
            weight = weight + heads[:, 1:]
        return F.linear(x, weight.view(self.stored.shape))

    def result(self) -> StoredTensor:
        """The tensor with its scales as they are now."""
        raw = self.raw.copy()
        raw[:, : 2 * self.halves] = self.heads().detach().numpy().astype(np.float16).view(np.uint8)
        rows = raw.reshape(self.stored.shape[0], -1)
        return replace(self.stored, rows=lambda first, last: rows[first:last], view=None)


def tune(
    original: Checkpoint,
    small: Checkpoint,
    chunks: list[list[int]],
    progress: Progress = silent,
) -> Checkpoint:
    """`small` with trained scales and norms; one pass over `chunks` of equal length, in an order that is always the same.

    Its matrices are in formats of HALVES.
    """
    teacher = from_checkpoint(original.config, original.tensors, torch.float32)
    student = from_checkpoint(small.config, small.tensors, torch.float32).requires_grad_(False)
    scaled = _replace_matrices(student, small, progress)
    norms = {name: p for name, p in student.named_parameters() if name.endswith("norm.weight")}
    for norm in norms.values():
        norm.requires_grad_(True)
    steps = max(1, len(chunks) // BATCH)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], RATE, betas=(0.9, 0.99))
    order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(0)).tolist()
    for step in range(steps):
        tokens = torch.tensor([chunks[i] for i in order[step * BATCH : (step + 1) * BATCH]])
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARMUP) * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        torch.autograd.backward(_divergence(teacher, student, tokens))
        optimizer.step()
        progress("tuning", step + 1, steps)
    tuned = {name: module.result() for name, module in scaled.items()}
    for name, norm in norms.items():
        tuned[name] = _vector(norm.detach().numpy())
    return replace(small, tensors={name: tuned.get(name, tensor) for name, tensor in small.tensors.items()})


def _replace_matrices(student: Transformer, small: Checkpoint, progress: Progress) -> dict[str, _Scaled]:
    matrices = [n for n, stored in small.tensors.items() if n.startswith("layers.") and len(stored.shape) == 2]
    scaled = {}
    for done, name in enumerate(matrices, 1):
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        scaled[name] = _Scaled(small.tensors[name])
        setattr(student.get_submodule(parent), leaf, scaled[name])
        progress("rounding", done, len(matrices))
    return scaled


def _divergence(teacher: Transformer, student: Transformer, tokens: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's next-token distributions from the teacher's, in nats a token."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher(tokens), -1)
    found = F.log_softmax(student(tokens), -1)
    return F.kl_div(found, wanted, reduction="sum", log_target=True) / tokens.numel()


def _vector(values: np.ndarray) -> StoredTensor:
    raw = np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(1, -1)
    return StoredTensor("F32", values.shape, lambda first, last: raw[first:last])
