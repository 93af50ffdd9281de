"""GGUF metadata <-> a model's shape. Every key that changes the mathematics is computed or refused by name.

Keys: ggml's `docs/gguf.md` and llama.cpp's `llama-arch.cpp`; docs/reference/formats.md holds these tables in words.
"""

import math
import struct
from dataclasses import replace
from typing import Any

from herd.errors import FormatError
from herd.family import ModelConfig
from herd.rotary import RopeScaling, float32, llama3_divisors, yarn_gain
from herd.weights.checkpoint import StoredTensor, number, positive_int

_ROPE_KEY = "herd.rope_scaling"

COMPUTED = (
    "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
    "llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length",
    "llama.attention.value_length", "llama.attention.layer_norm_rms_epsilon", "llama.rope.dimension_count",
    "llama.rope.freq_base", "llama.rope.scale_linear", "llama.rope.scaling.type", "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length", "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.yarn_beta_fast", "llama.rope.scaling.yarn_beta_slow",
)  # fmt: skip
HARMLESS = (
    "llama.vocab_size", "llama.tensor_data_layout", "llama.rope.scaling.finetuned", "llama.pooling_type",
    "llama.classifier.output_labels", "llama.classifier.pooling_type",
)  # fmt: skip
PLAIN: dict[str, tuple[Any, ...]] = {
    # key -> values that say "the plain Llama architecture", besides 0, false, "" and an empty list
    "llama.attention.causal": (True,), "llama.rope.scaling.alpha": (1,), "llama.rope.scaling.yarn_ext_factor": (-1,),
    "llama.rope.scaling.yarn_attn_factor": (1,), "llama.hidden_activation": ("silu",), "llama.logit_scale": (1,),
    "llama.residual_scale": (1,), "llama.embedding_scale": (1,), "llama.attention.output_scale": (1,),
    "llama.attention.value_scale": (1,),
}  # fmt: skip
TOKENIZER_PLAIN: dict[str, tuple[Any, ...]] = {
    # the same of keys that change what texts become; other tokenizer keys are computed or change nothing
    "tokenizer.ggml.add_sep_token": (False,), "tokenizer.ggml.add_space_prefix": (False,),
    "tokenizer.ggml.normalizer.lowercase": (False,), "tokenizer.ggml.normalizer.strip_accents": (False,),
    "tokenizer.ggml.precompiled_charsmap": ([],), "tokenizer.ggml.suppress_tokens": ([],),
}  # fmt: skip


def check_keys(metadata: dict[str, Any], where: str) -> None:
    """FormatError naming the first key that says something herd does not compute."""
    for key, value in metadata.items():
        if key in TOKENIZER_PLAIN:
            plain = TOKENIZER_PLAIN[key]
        elif key.startswith("llama.") and key not in COMPUTED and key not in HARMLESS:
            off: tuple[Any, ...] = () if key == "llama.attention.causal" else (0, "", [])
            plain = (*PLAIN.get(key, ()), *off)
        else:
            continue
        if isinstance(value, str | int | float | list) and value in plain:
            continue
        if not isinstance(value, str | int | float) and not len(value):
            continue
        said = value if isinstance(value, str | int | float) else "a list"
        raise FormatError(f"{where}: {key} is {said!r}; herd does not run models with that feature")


def config_from_gguf(
    metadata: dict[str, Any], tensors: dict[str, StoredTensor], rope: StoredTensor | None, where: str
) -> ModelConfig:
    """The shape that a file's metadata and its canonical tensors describe; `rope` is `rope_freqs.weight`."""
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise FormatError(f"{where}: architecture {architecture!r}; herd runs the Llama architecture only")
    check_keys(metadata, where)
    embedding = tensors.get("tok_embeddings.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError(f"{where}: tensor token_embd.weight is missing or not a matrix")
    layers = positive_int(metadata, "llama.block_count", where)
    sizes = {key: _same_in_all_layers(metadata, key, layers, where) for key in COMPUTED[:10] if key in metadata}
    dim, heads = (positive_int(sizes, f"llama.{key}", where) for key in ("embedding_length", "attention.head_count"))
    head_dim = positive_int({"llama.attention.key_length": dim // heads, **sizes}, "llama.attention.key_length", where)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if sizes.get(key, head_dim) != head_dim:
            raise FormatError(f"{where}: {key} is {sizes[key]!r}; expected the head size, {head_dim}")
    config = ModelConfig(
        layers=layers,
        dim=dim,
        ffn_dim=positive_int(sizes, "llama.feed_forward_length", where),
        heads=heads,
        kv_heads=positive_int(
            {"llama.attention.head_count_kv": heads, **sizes}, "llama.attention.head_count_kv", where
        ),
        head_dim=head_dim,
        vocab=embedding.shape[0],
        context=positive_int(metadata, "llama.context_length", where),
        # The header holds a float32; its shortest decimal is what the model's author wrote.
        norm_eps=_shortest(_needed(metadata, "llama.attention.layer_norm_rms_epsilon", where)),
        rope_theta=number(metadata, "llama.rope.freq_base", 10_000.0, where),
        tied="output.weight" not in tensors and "score.weight" not in tensors,
        classes=tensors["score.weight"].row_count if "score.weight" in tensors else 0,
    )
    return replace(config, rope_scaling=_rope_scaling(metadata, rope, config, where))


def _needed(metadata: dict[str, Any], key: str, where: str) -> float:
    """A number for which llama.cpp has no default either."""
    if key not in metadata:
        raise FormatError(f"{where}: {key} is missing; convert the model anew")
    return number(metadata, key, 0.0, where)


def _same_in_all_layers(metadata: dict[str, Any], key: str, layers: int, where: str) -> Any:
    """A number that a file may give for each layer; herd runs models whose layers are alike."""
    value = metadata[key]
    if not isinstance(value, list):
        return value
    if len(value) != layers or len(set(value)) != 1:
        raise FormatError(f"{where}: {key} differs from layer to layer; herd runs models whose layers are alike")
    return value[0]


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32."""
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((short for short in shorter if float32(short) == float32(value)), value)


def _rope_scaling(
    metadata: dict[str, Any], rope: StoredTensor | None, config: ModelConfig, where: str
) -> RopeScaling | None:
    """Linear and yarn scaling stand in keys, as llama.cpp reads them; Llama 3.1's in a tensor of divisors."""
    key = "llama.rope.scaling."
    kind = metadata.get(key + "type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise FormatError(f"{where}: {key}type is {kind!r}; herd runs 'none', 'linear' and 'yarn'")
    old = number(metadata, "llama.rope.scale_linear", 0.0, where)
    factor = _shortest(number(metadata, key + "factor", old, where)) or 1.0
    gain = _shortest(number(metadata, key + "attn_factor", 1.0, where))
    plain = gain == 1 and (kind == "none" or (kind == "linear" and factor == 1))
    if rope is not None:
        if not plain:
            raise FormatError(f"{where}: has both rope_freqs.weight and {key}factor; herd runs one or the other")
        return _llama3_scaling(metadata, rope, config.head_dim, config.rope_theta, where)
    if plain:
        return None
    if kind != "yarn":
        return RopeScaling(factor if kind == "linear" else 1.0, kind="linear", attention_factor=_unless(gain, 1.0))
    return RopeScaling(
        factor,
        kind="yarn",
        original_context=positive_int({key + "original_context_length": config.context, **metadata},
                                      key + "original_context_length", where),
        beta_fast=number(metadata, key + "yarn_beta_fast", 32.0, where),
        beta_slow=number(metadata, key + "yarn_beta_slow", 1.0, where),
        attention_factor=None if gain == 1 else _shortest(gain * yarn_gain(factor)),
    )  # fmt: skip


def _unless(value: float, default: float) -> float | None:
    return None if value == default else value


def _llama3_scaling(
    metadata: dict[str, Any], rope: StoredTensor, head_dim: int, theta: float, where: str
) -> RopeScaling:
    """The scaling whose divisors are those of `rope_freqs.weight`."""
    if rope.format != "F32" or rope.shape != (head_dim // 2,):
        raise FormatError(
            f"{where}: rope_freqs.weight is {rope.format} {list(rope.shape)}; expected F32 [{head_dim // 2}]"
        )
    given = struct.unpack(f"<{head_dim // 2}f", rope.raw())
    candidates = [RopeScaling(factor=f) for f in {8.0, 32.0, max(given)} if 1 <= f < math.inf]
    written = metadata.get(_ROPE_KEY)
    if isinstance(written, list) and len(written) == 4 and all(isinstance(x, float) and 0 < x < 1e9 for x in written):
        factor, low, high, original = written
        if factor >= 1 and low < high and original >= 1:
            candidates.insert(0, RopeScaling(factor, low, high, int(original)))
    for scaling in candidates:
        divisors = llama3_divisors(head_dim, theta, scaling)
        if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(given, divisors, strict=True)):
            return scaling
    raise FormatError(f"{where}: rope_freqs.weight is not Llama 3.1's frequency scaling; herd does not run this model")


def config_to_gguf(config: ModelConfig) -> dict[str, Any]:
    """The metadata of a shape; FormatError for a scaling that GGUF cannot say."""
    values: dict[str, Any] = {
        "llama.block_count": config.layers,
        "llama.context_length": config.context,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.heads,
        "llama.attention.head_count_kv": config.kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab,
    }
    s = config.rope_scaling
    if s is None:
        return values
    if s.kind == "llama3":
        if s.attention_factor is not None:
            raise FormatError("rope scaling: a GGUF file cannot give llama3 scaling an attention factor")
        return values | {_ROPE_KEY: [s.factor, s.low_freq_factor, s.high_freq_factor, float(s.original_context)]}
    key = "llama.rope.scaling."
    values |= {key + "type": s.kind, key + "factor": s.factor}
    if s.kind == "linear":
        return values if s.attention_factor is None else values | {key + "attn_factor": s.attention_factor}
    if not s.truncate:
        raise FormatError("rope scaling: a GGUF file cannot say yarn without truncation; keep this model as hf")
    values[key + "original_context_length"] = s.original_context
    if (s.beta_fast, s.beta_slow) != (32, 1):
        values |= {key + "yarn_beta_fast": float(s.beta_fast), key + "yarn_beta_slow": float(s.beta_slow)}
    if s.attention_factor is not None:
        values[key + "attn_factor"] = s.attention_factor / yarn_gain(s.factor)
    return values
