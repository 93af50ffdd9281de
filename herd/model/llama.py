"""Llama in plain torch: RMSNorm, rotary embedding with 3.1's scaling, grouped-query attention, SwiGLU.

The model does not know where keys and values live. It hands queries, keys and values of each layer to an `attend`
function: training attends within a batch (`causal_attention`), serving within a paged cache. Parallel layouts are
applied from outside too, to the modules.

"The Llama 3 Herd of Models" (arXiv 2407.21783), section 3.2; names and rotary order are those of Meta's checkpoints.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herd.errors import ConfigError
from herd.family import ModelConfig, RopeScaling
from herd.weights.checkpoint import StoredTensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries [.., heads, head_dim], keys and values [.., kv_heads, head_dim]) -> [.., heads, head_dim]."""


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


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Radians a position turns each of the head_dim / 2 pairs, float32 as in Meta's and transformers' code.

    With scaling, wavelengths beyond original_context / low_freq_factor are stretched by `factor`, those below
    original_context / high_freq_factor kept, those between blended linearly (Meta's `apply_scaling`).
    """
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    if scaling is None:
        return frequency
    turns = scaling.original_context * frequency / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def apply_rope(x: Tensor, angle: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i+1) of x [..., heads, head_dim] by angle [..., head_dim / 2] (arXiv 2104.09864)."""
    cos, sin = angle.cos().float().unsqueeze(-2), angle.sin().float().unsqueeze(-2)
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention without biases (arXiv 2305.13245); head counts are those of this rank's share."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, q, bias=False)
        self.wk = nn.Linear(config.dim, kv, bias=False)
        self.wv = nn.Linear(config.dim, kv, bias=False)
        self.wo = nn.Linear(q, config.dim, bias=False)

    def forward(self, x: Tensor, angle: Tensor, layer: int, attend: Attend) -> Tensor:
        q, k, v = (w(x).view(*x.shape[:-1], -1, self.head_dim) for w in (self.wq, self.wk, self.wv))
        mixed = attend(layer, apply_rope(q, angle), apply_rope(k, angle), v)
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

    def forward(self, x: Tensor, angle: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.attention(self.attention_norm(x), angle, layer, attend)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Transformer(nn.Module):
    """The whole model. `hidden` gives the last layer's normed states, `logits` multiplies them with the output head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.output.weight = self.tok_embeddings.weight
        frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """States [..., dim] of `tokens` [...] at `positions` [...]."""
        x = self.tok_embeddings(tokens)
        angle = positions.unsqueeze(-1).float() * self.frequencies
        for i, layer in enumerate(self.layers):
            x = layer(x, angle, i, attend)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., vocab] in float32."""
        scores: Tensor = self.output(hidden)
        return scores.float()

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits [batch, length, vocab] of whole sequences [batch, length].

        `documents` [batch, length] numbers the document of each token: tokens attend within their own document, and
        positions start anew in each.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        mask = None
        if documents is not None:
            mask = document_mask(documents)
            positions = positions - document_starts(documents)
        return self.logits(self.hidden(tokens, positions, causal_attention(mask)))


def document_mask(documents: Tensor) -> Tensor:
    """Who may attend to whom [batch, 1, length, length]: earlier tokens of the same document."""
    length = documents.shape[1]
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return (same & torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()).unsqueeze(1)


def document_starts(documents: Tensor) -> Tensor:
    """The index at which the document of each token starts [batch, length]; a document is a run of one number."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return torch.where(first, index, 0).cummax(dim=1).values


def causal_attention(mask: Tensor | None = None) -> Attend:
    """Attention within a batch [batch, length, heads, head_dim], causal or by `mask` [batch, 1, length, length]."""

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        return mixed.transpose(1, 2)

    return attend


def load_weights(
    model: Transformer,
    tensors: Mapping[str, StoredTensor],
    cut: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> None:
    """Fill `model` from a checkpoint's tensors; `cut` keeps a rank's share of each. Quantized weights are decoded.

    ConfigError when a tensor's shape is not the module's.
    """
    parameters = dict(model.named_parameters())
    for name, stored in tensors.items():
        parameter = parameters.get(name)
        if parameter is None and name == "output.weight":
            continue  # tied: the module shares the embedding
        value = cut(name, torch.from_numpy(np.require(stored.float32(), requirements="W")))
        if parameter is None or parameter.shape != value.shape:
            have = None if parameter is None else list(parameter.shape)
            raise ConfigError(f"tensor {name} has shape {list(value.shape)}; the model expects {have}")
        with torch.no_grad():
            parameter.copy_(value)


def from_checkpoint(config: ModelConfig, tensors: Mapping[str, StoredTensor], dtype: torch.dtype) -> Transformer:
    """A model on the CPU with a checkpoint's weights in `dtype`."""
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(dtype).to_empty(device="cpu")
    model.frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    if config.tied:
        model.output.weight = model.tok_embeddings.weight
    load_weights(model, tensors)
    return model.eval()
