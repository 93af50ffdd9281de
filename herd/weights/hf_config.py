"""`config.json` <-> a model's shape. What transformers' LlamaConfig reads is computed, harmless or refused by name.

docs/reference/formats.md holds these tables in words. Keys that LlamaConfig does not know change nothing there, and are
ignored here too, except those with which other models say that they are no plain Llama.
"""

from typing import Any

from herd.errors import FormatError
from herd.family import ModelConfig
from herd.rotary import RopeScaling, yarn_gain
from herd.weights.checkpoint import number, positive_int

_GENERATES, _CLASSIFIES = "LlamaForCausalLM", "LlamaForSequenceClassification"
_INSIDE = "LlamaModel"  # saved without the head, which a tied one does not need
_ORIGINAL = "original_max_position_embeddings"
_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "bfloat16"}

COMPUTED = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "original_max_position_embeddings", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "quantization_config", "num_labels", "id2label",
)  # fmt: skip
HARMLESS = (
    "initializer_range", "use_cache", "pad_token_id", "pretraining_tp", "attention_dropout", "transformers_version",
    "dtype", "torch_dtype", "output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward",
    "label2id", "problem_type",
)  # fmt: skip
PLAIN: dict[str, tuple[Any, ...]] = {
    # key -> values that mean "the plain Llama architecture"
    "attention_bias": (False, None), "mlp_bias": (False, None), "hidden_act": ("silu", "swish"),
    "is_encoder_decoder": (False, None), "per_layer_config": (None, {}),
    "sliding_window": (None,), "use_sliding_window": (False, None), "num_local_experts": (None, 0, 1),
    "num_experts": (None, 0, 1), "partial_rotary_factor": (None, 1),
    "qk_norm": (None, False), "use_qk_norm": (None, False), "attn_logit_softcapping": (None,), "layer_types": (None,),
    "embedding_multiplier": (None, 1), "residual_multiplier": (None, 1), "logits_scaling": (None, 1),
}  # fmt: skip
ROPE_KEYS = (
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor",
    "high_freq_factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
    "finetuned", "partial_rotary_factor",
)  # fmt: skip


def config_from_hf(settings: dict[str, Any], where: str) -> ModelConfig:
    """A `config.json` as a shape; FormatError naming the first feature outside the Llama architecture."""
    architectures = settings.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise FormatError(f"{where}: architectures is {architectures!r:.60}; expected a list of names")
    model_type = settings.get("model_type")
    if model_type != "llama" or (architectures and not {_GENERATES, _CLASSIFIES, _INSIDE} & set(architectures)):
        raise FormatError(
            f"{where}: model_type {model_type!r}, architectures {architectures}; herd runs {_GENERATES} and {_CLASSIFIES}"
        )
    classifies = _CLASSIFIES in architectures
    for key, plain in PLAIN.items():
        if key in settings and settings[key] not in plain:
            raise FormatError(f"{where}: {key} is {settings[key]!r}; herd does not run models with that feature")
    quantization = settings.get("quantization_config")
    if quantization is not None and (
        not isinstance(quantization, dict) or quantization.get("quant_method") != "fbgemm_fp8"
    ):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise FormatError(f"{where}: quantization {method!r}; herd reads fbgemm_fp8 and unquantized weights")
    dim, heads = (positive_int(settings, key, where) for key in ("hidden_size", "num_attention_heads"))
    context = positive_int({"max_position_embeddings": 2048, **settings}, "max_position_embeddings", where)
    # transformers: rope_scaling takes the place of rope_parameters, and a rope_theta inside wins over one beside it.
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise FormatError(f"{where}: rope_scaling is {rope!r}; expected an object")
    tied = settings.get("tie_word_embeddings")
    if tied not in (None, True, False):
        raise FormatError(f"{where}: tie_word_embeddings is {tied!r}; expected true or false")
    head_dim = settings.get("head_dim") or dim // heads
    return ModelConfig(
        layers=positive_int(settings, "num_hidden_layers", where),
        dim=dim,
        ffn_dim=positive_int(settings, "intermediate_size", where),
        heads=heads,
        kv_heads=positive_int({**settings, "num_key_value_heads": settings.get("num_key_value_heads") or heads},
                              "num_key_value_heads", where),
        head_dim=head_dim,
        vocab=positive_int(settings, "vocab_size", where),
        context=context,
        norm_eps=number(settings, "rms_norm_eps", 1e-6, where),
        rope_theta=number({**settings, **rope}, "rope_theta", 10_000.0, where),
        rope_scaling=_rope_scaling(rope, settings, context, where),
        tied=bool(tied) and not classifies,
        classes=(settings.get("num_labels") or len(settings.get("id2label") or "01")) if classifies else 0,
    )  # fmt: skip


def _rope_scaling(rope: dict[str, Any], settings: dict[str, Any], context: int, where: str) -> RopeScaling | None:
    for key in rope:
        if key not in ROPE_KEYS:
            raise FormatError(f"{where}: rope_scaling has {key!r}; herd does not run models with that feature")
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise FormatError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; expected 1")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", None):
        return None
    if kind not in ("llama3", "linear", "yarn"):
        raise FormatError(f"{where}: rope_scaling of type {kind!r}; herd runs 'llama3', 'linear' and 'yarn'")
    if rope.get("factor") is None:
        raise FormatError(f"{where}: rope_scaling of type {kind!r} has no factor; expected a number of 1 or more")
    if kind == "linear":
        return RopeScaling(number(rope, "factor", 1.0, where), kind="linear")
    beside = {_ORIGINAL: settings[_ORIGINAL]} if _ORIGINAL in settings else {}
    original = positive_int({_ORIGINAL: context, **rope, **beside}, _ORIGINAL, where)
    if kind == "llama3":
        return RopeScaling(
            factor=number(rope, "factor", 8.0, where),
            low_freq_factor=number(rope, "low_freq_factor", 1.0, where),
            high_freq_factor=number(rope, "high_freq_factor", 4.0, where),
            original_context=original,
        )
    return _yarn(rope, original, where)


def _yarn(rope: dict[str, Any], original: int, where: str) -> RopeScaling:
    given = {key: value for key, value in rope.items() if value is not None}
    factor = number(given, "factor", 1.0, where)
    gain = number(given, "attention_factor", 0.0, where) or None
    scale, all_dim = (number(given, key, 0.0, where) for key in ("mscale", "mscale_all_dim"))
    if gain is None and scale and all_dim and factor > 1:
        gain = yarn_gain(factor, scale) / yarn_gain(factor, all_dim)
    truncate = rope.get("truncate", True)
    if not isinstance(truncate, bool):
        raise FormatError(f"{where}: rope_scaling truncate is {truncate!r}; expected true or false")
    return RopeScaling(
        factor, original_context=original, kind="yarn", beta_fast=number(given, "beta_fast", 32.0, where) or 32.0,
        beta_slow=number(given, "beta_slow", 1.0, where) or 1.0, attention_factor=gain, truncate=truncate,
    )  # fmt: skip


def config_to_hf(config: ModelConfig, dtype: str = "BF16") -> dict[str, Any]:
    """The `config.json` of a shape, as transformers writes it."""
    settings: dict[str, Any] = {
        "architectures": [_CLASSIFIES if config.classes else _GENERATES],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else _scaling_to_hf(config.rope_scaling),
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": _TORCH_NAMES[dtype],
    }
    if config.classes:
        settings["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.classes)}
        settings["label2id"] = {name: int(i) for i, name in settings["id2label"].items()}
    return settings


def _scaling_to_hf(scaling: RopeScaling) -> dict[str, Any]:
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "yarn" and scaling.attention_factor is not None:
        raise FormatError(
            f"rope scaling: transformers gives {scaling.kind} scaling no attention factor; keep it as gguf"
        )
    if scaling.kind == "linear":
        return values
    values[_ORIGINAL] = scaling.original_context
    if scaling.kind == "llama3":
        return values | {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    if scaling.attention_factor is not None:
        values["attention_factor"] = scaling.attention_factor
    return values if scaling.truncate else values | {"truncate": False}
