"""Llama in plain torch: RMSNorm, rotary embedding with 3.1's scaling, grouped-query attention, SwiGLU.

`Transformer.forward` is the one door. The model does not know where keys and values live: each layer's attention has a
`kernel` that may be replaced (`herd.model.attention` is the plain one, serving has one over a paged cache). Parts may be
absent, so that a stage of a pipeline is a Transformer too. Parallel layouts are applied from outside, to the modules.

"The Llama 3 Herd of Models" (arXiv 2407.21783), section 3.2; names and rotary order are those of Meta's checkpoints.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.attention import Documents, Kernel, attend
from herd.rotary import frequencies

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [.., 1, head_dim / 2] in float32, computed once a forward for all layers."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, computed in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


def apply_rope(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the pairs (2i, 2i+1) of x [..., heads, head_dim] by the angles of `rotary` (arXiv 2104.09864)."""
    cos, sin = rotary
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention without biases (arXiv 2305.13245); head counts follow from the weights, so that a rank may hold a share."""

    kernel: Kernel

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, q, bias=False)
        self.wk = nn.Linear(config.dim, kv, bias=False)
        self.wv = nn.Linear(config.dim, kv, bias=False)
        self.wo = nn.Linear(q, config.dim, bias=False)
        self.kernel = attend

    def forward(self, x: Tensor, rotary: Rotary, mask: Any) -> Tensor:
        q, k, v = (w(x) for w in (self.wq, self.wk, self.wv))
        q, k, v = (y.view(*y.shape[:-1], -1, self.head_dim) for y in (q, k, v))
        mixed = self.kernel(apply_rope(q, rotary), apply_rope(k, rotary), v, mask)
        out: Tensor = self.wo(mixed.flatten(-2))
        return out


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm and beside a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, rotary: Rotary, mask: Any) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, mask)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


Head = Callable[[Tensor, Tensor], Any]
"""(hidden [.., dim], weight of the output [rows, dim]) -> anything: what a loss computes without all logits at once."""


class Transformer(nn.Module):
    """The whole model, or a stage of it: `layers` are the numbers of those that are here (default: all).

    Without `embedding` the forward takes states instead of tokens; without `output` it gives states that no norm has
    touched. Layers keep their numbers in names: `layers.7.attention.wq.weight`.
    """

    def __init__(
        self, config: ModelConfig, *, layers: range | None = None, embedding: bool = True, output: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab, config.dim) if embedding else None
        here = range(config.layers) if layers is None else layers
        if any(i not in range(config.layers) for i in here):
            raise ConfigError(f"layers {here[0]} to {here[-1]}: the model has 0 to {config.layers - 1}")
        self.layers = nn.ModuleDict({str(i): Block(config) for i in here})
        self.norm = RMSNorm(config.dim, config.norm_eps) if output else None
        self.output = nn.Linear(config.dim, config.vocab, bias=False) if output and not config.classes else None
        self.score = nn.Linear(config.dim, config.classes, bias=False) if output and config.classes else None
        self._tie()
        # plain numbers: neither a change of dtype nor a meta device touches them
        self.frequencies = frequencies(config.head_dim, config.rope_theta, config.rope_scaling).tolist()

    def _tie(self) -> None:
        if self.config.tied and self.output is not None and self.tok_embeddings is not None:
            self.output.weight = self.tok_embeddings.weight

    @property
    def blocks(self) -> list[Block]:
        """The layers that are here, in order."""
        return list(self.layers.values())  # type: ignore[arg-type]

    @property
    def head(self) -> nn.Linear | None:
        """What the normed states are multiplied with: the output, or the scores of classes."""
        return self.output if self.output is not None else self.score

    def materialize(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Transformer":
        """Give a model made on the meta device memory, not yet filled; tied weights stay tied. Returns the model."""
        if dtype is not None:
            self.to(dtype)
        self.to_empty(device=device)
        self._tie()
        return self

    def rotary(self, positions: Tensor) -> Rotary:
        """What turns queries and keys at `positions` [..]."""
        turns = torch.tensor(self.frequencies, dtype=torch.float32, device=positions.device)
        angle = (positions.unsqueeze(-1).float() * turns).unsqueeze(-2)
        gain = 1.0 if self.config.rope_scaling is None else self.config.rope_scaling.gain
        return angle.cos() * gain, angle.sin() * gain

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, mask: Any = None, *, head: bool | Head = True
    ) -> Any:
        """Logits [.., vocab or classes] in float32 of `tokens` [batch, length]; states [.., dim] with `head=False` or without an output.

        A stage without an embedding takes the states [batch, length, dim] of the one before. `positions` [batch, length]
        count from 0 (default: in each row, or in each of the documents of `mask`). `mask` goes to the attention kernels. A
        `head` that is a function is called here, where its weight is whole in every parallel layout, and its result returned.
        """
        if positions is None:
            positions = _positions(tokens, mask)
        rotary = self.rotary(positions)
        x = tokens if self.tok_embeddings is None else self.tok_embeddings(tokens)
        for layer in self.layers.values():
            x = layer(x, rotary, mask)
        if self.norm is None:
            return x
        x = self.norm(x)
        if head is False or self.head is None:
            return x
        return self.head(x).float() if head is True else head(x, self.head.weight)


def _positions(tokens: Tensor, mask: Any) -> Tensor:
    shape = tokens.shape[:2]
    if isinstance(mask, Documents):
        return mask.positions(shape, tokens.device)
    return torch.arange(shape[1], device=tokens.device).expand(shape)
