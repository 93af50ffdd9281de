"""The Llama family: one frozen description of a model's shape, and the named shapes.

Sources: "The Llama 3 Herd of Models" (arXiv 2407.21783) table 3, Meta's and HuggingFaceTB's published configurations.
"""

from dataclasses import dataclass, replace

from herd.errors import ConfigError
from herd.rotary import RopeScaling, yarn_range


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a dense Llama: pre-norm RMSNorm, rotary grouped-query attention, SwiGLU, no biases.

    `dim`, `ffn_dim` and `head_dim` are in elements, `context` in tokens. `tied` shares embedding and output weights.
    `classes` above 0 means a head `score.weight` with so many rows in place of the vocabulary: reward models (1) and classifiers.
    Raises ConfigError naming the field when a value is impossible.
    """

    layers: int
    dim: int
    ffn_dim: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int = 131_072
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = False
    classes: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "dim", "ffn_dim", "heads", "kv_heads", "head_dim", "vocab", "context"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 2**31:
                raise ConfigError(f"model shape: {name} is {value!r}; expected a whole number from 1 to 2^31")
        if not isinstance(self.classes, int) or isinstance(self.classes, bool) or not 0 <= self.classes <= 2**31:
            raise ConfigError(
                f"model shape: classes is {self.classes!r}; expected 0 (a vocabulary) or a number of classes"
            )
        if self.classes and self.tied:
            raise ConfigError(f"model shape: a head of {self.classes} classes cannot be tied to the embedding")
        if self.heads % self.kv_heads:
            raise ConfigError(f"model shape: {self.heads} heads cannot share {self.kv_heads} kv_heads evenly")
        if self.head_dim % 2:
            raise ConfigError(f"model shape: head_dim is {self.head_dim}; rotary embedding needs an even number")
        if not 0 < self.norm_eps < 1 or not 1 <= self.rope_theta < 1e12:
            raise ConfigError(f"model shape: norm_eps {self.norm_eps} or rope_theta {self.rope_theta} out of range")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn":
            yarn_range(self.head_dim, self.rope_theta, self.rope_scaling)

    @property
    def parameters(self) -> int:
        """Trainable parameters, a tied output head counted once."""
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        head = self.classes or (0 if self.tied else self.vocab)
        return self.layers * layer + self.dim + (self.vocab + head) * self.dim

    @property
    def matmul_parameters(self) -> int:
        """Parameters that a token is multiplied with: all but norms and the embedding lookup."""
        norms = (2 * self.layers + 1) * self.dim
        return self.parameters - norms - (0 if self.tied else self.vocab * self.dim)

    def flops_per_token(self, context: int) -> int:
        """Forward floating-point operations for one token that attends to `context` positions (itself included).

        Two per multiply-add; attention adds scores and weighted values, `4 * context * heads * head_dim` a layer
        (PaLM, arXiv 2204.02311, appendix B).
        """
        return 2 * self.matmul_parameters + 4 * self.layers * context * self.heads * self.head_dim

    def kv_bytes_per_token(self, bytes_per_element: float = 2) -> int:
        """Bytes of key-value cache for one position over all layers."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * bytes_per_element)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical tensor name -> shape (rows = outputs), in the order that files are written."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (self.vocab, self.dim)}
        for i in range(self.layers):
            p = f"layers.{i}."
            shapes[p + "attention_norm.weight"] = (self.dim,)
            shapes[p + "attention.wq.weight"] = (q, self.dim)
            shapes[p + "attention.wk.weight"] = (kv, self.dim)
            shapes[p + "attention.wv.weight"] = (kv, self.dim)
            shapes[p + "attention.wo.weight"] = (self.dim, q)
            shapes[p + "ffn_norm.weight"] = (self.dim,)
            shapes[p + "feed_forward.w1.weight"] = (self.ffn_dim, self.dim)
            shapes[p + "feed_forward.w3.weight"] = (self.ffn_dim, self.dim)
            shapes[p + "feed_forward.w2.weight"] = (self.dim, self.ffn_dim)
        shapes["norm.weight"] = (self.dim,)
        if self.classes:
            shapes["score.weight"] = (self.classes, self.dim)
        elif not self.tied:
            shapes["output.weight"] = (self.vocab, self.dim)
        return shapes


_8B = ModelConfig(
    layers=32, dim=4096, ffn_dim=14336, heads=32, kv_heads=8, head_dim=128, vocab=128_256, rope_scaling=RopeScaling()
)
_70B = replace(_8B, layers=80, dim=8192, ffn_dim=28672, heads=64)
_1B = replace(
    _8B, layers=16, dim=2048, ffn_dim=8192, head_dim=64, rope_scaling=RopeScaling(factor=32.0), tied=True
)  # fmt: skip
_SMOL = ModelConfig(
    layers=30, dim=576, ffn_dim=1536, heads=9, kv_heads=3, head_dim=64, vocab=49_152,
    context=8192, rope_theta=100_000.0, tied=True,
)  # fmt: skip

_405B = replace(_8B, layers=126, dim=16384, ffn_dim=53248, heads=128)


def _before_long_context(config: ModelConfig) -> ModelConfig:
    """As it was pre-trained: rows of 8,192 tokens, positions not scaled (arXiv 2407.21783, section 3.4)."""
    return replace(config, context=8192, rope_scaling=None)


SHAPES: dict[str, ModelConfig] = {
    "llama-3-8b": _before_long_context(_8B),
    "llama-3-70b": _before_long_context(_70B),
    "llama-3-405b": _before_long_context(_405B),
    "llama-3.1-8b": _8B,
    "llama-3.1-70b": _70B,
    "llama-3.1-405b": _405B,
    "llama-3.2-1b": _1B,
    "llama-3.2-3b": replace(_1B, layers=28, dim=3072, heads=24, head_dim=128),
    "llama-3.3-70b": _70B,
    "llama-guard-3-1b": _1B,
    "llama-guard-3-8b": _8B,
    "smollm2-135m": _SMOL,
    "smollm2-360m": replace(_SMOL, layers=32, dim=960, ffn_dim=2560, heads=15, kv_heads=5),
    "smollm2-1.7b": replace(_SMOL, layers=24, dim=2048, ffn_dim=8192, heads=32, kv_heads=32, rope_theta=130_000.0),
    "tiny": ModelConfig(
        layers=2, dim=64, ffn_dim=160, heads=4, kv_heads=2, head_dim=16, vocab=512, context=2048, rope_theta=10_000.0
    ),
    "tiny-3.1": ModelConfig(
        layers=2,
        dim=64,
        ffn_dim=160,
        heads=2,
        kv_heads=1,
        head_dim=32,
        vocab=512,
        rope_scaling=RopeScaling(),
        tied=True,
    ),
}


def shape(name: str) -> ModelConfig:
    """The named shape; raises ConfigError listing the names."""
    if name not in SHAPES:
        raise ConfigError(f"model shape {name!r} is unknown; expected one of {', '.join(SHAPES)}")
    return SHAPES[name]
