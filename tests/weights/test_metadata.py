"""Metadata that changes the mathematics is computed or refused by name: every key that llama.cpp and transformers read."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from herd.errors import FormatError, HerdError
from herd.family import shape
from herd.rotary import RopeScaling
from herd.text._bpe import Strings
from herd.weights import gguf_config, hf_config, meta
from herd.weights.convert import convert
from herd.weights.dialog_files import recommended
from herd.weights.gguf_config import check_keys, config_from_gguf, config_to_gguf
from herd.weights.gguf_tokenizer import tokenizer_from_gguf
from herd.weights.hf_config import config_from_hf, config_to_hf
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint, stored

ROOT = Path(__file__).parents[2]
LLAMA_CPP = json.loads((ROOT / "tests" / "data" / "llama_cpp_names.json").read_text())
DOCS = (ROOT / "docs" / "reference" / "formats.md").read_text()
TINY = shape("tiny")


def opened(change):
    metadata = {"general.architecture": "llama", **config_to_gguf(TINY), **change}
    embedding = stored(np.zeros((TINY.vocab, TINY.dim), np.float32))
    return config_from_gguf(metadata, {"tok_embeddings.weight": embedding, "output.weight": embedding}, None, "here")


@pytest.mark.parametrize("key", LLAMA_CPP["architecture_keys"])
def test_each_architecture_key_of_llama_cpp(key):
    if key in gguf_config.COMPUTED:
        with pytest.raises(FormatError, match=key.rpartition(".")[2]):
            opened({"llama.rope.scaling.type": "yarn", key: "no"})  # it is read
        return
    if key in gguf_config.HARMLESS:
        assert opened({key: 3}) == TINY
        return
    for value in (3, 0.25, [3, 4]):
        with pytest.raises(FormatError, match=f"{key} is .*does not run"):
            opened({key: value})
    for plain in (*gguf_config.PLAIN.get(key, (0, False, [], 0.0))[:1],):
        assert opened({key: plain}) == TINY


@pytest.mark.parametrize("key", gguf_config.TOKENIZER_PLAIN)
def test_each_tokenizer_key_that_changes_texts(key):
    assert key in LLAMA_CPP["tokenizer_keys"]
    with pytest.raises(FormatError, match=key):
        check_keys({key: True if "add" in key or "normalizer" in key else [1]}, "here")
    check_keys({key: gguf_config.TOKENIZER_PLAIN[key][0]}, "here")


@pytest.mark.parametrize(
    "change, scaling",
    [
        ({"llama.rope.scaling.factor": 4.0}, RopeScaling(4.0, kind="linear")),
        ({"llama.rope.scale_linear": 2.0}, RopeScaling(2.0, kind="linear")),
        ({"llama.rope.scaling.factor": 4.0, "llama.rope.scale_linear": 2.0}, RopeScaling(4.0, kind="linear")),
        ({"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "none"}, None),
        ({"llama.rope.scaling.factor": 0.0}, None),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
         RopeScaling(4.0, kind="yarn", original_context=TINY.context)),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.attn_factor": 1.5},
         RopeScaling(1.0, kind="linear", attention_factor=1.5)),
        ({"llama.attention.head_count_kv": [2, 2]}, None),
    ],
)  # fmt: skip
def test_scalings_as_llama_cpp_reads_them(change, scaling):
    assert opened(change) == dataclasses.replace(TINY, rope_scaling=scaling)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"llama.attention.head_count_kv": [2, 1]}, "head_count_kv differs from layer to layer"),
        ({"llama.attention.head_count": [4, 4, 4]}, "head_count differs"),
        ({"llama.feed_forward_length": [160, 96]}, "feed_forward_length differs"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"llama.rope.dimension_count": 8}, "dimension_count"),
        ({"llama.something_new": 1}, "something_new"),
        ({"llama.attention.causal": False}, "causal"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change, word):
    with pytest.raises(FormatError, match=word):
        opened(change)


ODD = (
    None,
    True,
    -1,
    0,
    10**400,
    float("nan"),
    float("inf"),
    0.5,
    "",
    "7",
    [],
    [1],
    [0] * 5000,
    {},
    {"a": 1},
    [[1]],
    "\x1b[2J",
)


def refused_or_typed(read):
    """Reading gives a shape of numbers or one short line; never another error."""
    try:
        config = read()
    except HerdError as error:
        assert len(str(error)) < 2100
        assert str(error).isprintable()
        return
    for name in ("layers", "dim", "heads", "kv_heads", "head_dim", "vocab", "context", "classes"):
        assert type(getattr(config, name)) is int
    assert config.norm_eps < math.inf and type(config.rope_theta) is float  # noqa: PT018


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_odd_values_under_every_key_are_refused_in_one_line(value):
    gguf_keys = (*gguf_config.COMPUTED, *gguf_config.HARMLESS, *gguf_config.PLAIN)
    for key in () if value is None or isinstance(value, dict) else gguf_keys:  # which GGUF cannot say
        refused_or_typed(lambda key=key: opened({key: value}))
    for key in (*hf_config.COMPUTED, *hf_config.HARMLESS, *hf_config.PLAIN):
        refused_or_typed(lambda key=key: config_from_hf({**config_to_hf(TINY), key: value}, "here"))
    for key in hf_config.ROPE_KEYS:
        rope = {"rope_type": "yarn", "factor": 4.0, key: value}
        refused_or_typed(lambda rope=rope: config_from_hf({**config_to_hf(TINY), "rope_scaling": rope}, "here"))
    for key in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "do_sample"):
        assert all(0 <= number < 1e9 for number in recommended({key: value}).values())


def test_a_file_that_does_not_say_its_epsilon_is_refused():
    metadata = {"general.architecture": "llama", **config_to_gguf(TINY)}
    del metadata["llama.attention.layer_norm_rms_epsilon"]
    embedding = stored(np.zeros((TINY.vocab, TINY.dim), np.float32))
    with pytest.raises(FormatError, match="layer_norm_rms_epsilon is missing"):  # llama.cpp has no default either
        config_from_gguf(metadata, {"tok_embeddings.weight": embedding}, None, "here")


def test_every_key_of_transformers_config_is_in_one_table():
    fields = {field.name for field in dataclasses.fields(LlamaConfig)} | set(LlamaConfig().to_dict())
    tables = (hf_config.COMPUTED, hf_config.HARMLESS, hf_config.PLAIN)
    assert sorted(fields - {key for table in tables for key in table} - {"_name_or_path"}) == []
    assert sum(map(len, tables)) == len({key for table in tables for key in table})


@pytest.mark.parametrize("key", hf_config.PLAIN)
def test_each_feature_of_a_config_that_herd_has_not_is_refused(key):
    plain = config_to_hf(TINY)
    assert config_from_hf({**plain, key: hf_config.PLAIN[key][0]}, "here") == TINY
    with pytest.raises(FormatError, match=f"{key} is"):
        config_from_hf({**plain, key: 0.5 if key != "hidden_act" else "gelu"}, "here")


@pytest.mark.parametrize(
    "rope, word",
    [({"rope_type": "dynamic", "factor": 2.0}, "dynamic"), ({"rope_type": "longrope"}, "longrope"),
     ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
     ({"full_attention": {"rope_type": "default"}}, "full_attention"), ({"rope_type": "yarn", "factor": 2.0, "truncate": 3}, "truncate"),
     ({"rope_type": "yarn", "factor": "4"}, "factor"), ({"type": "linear"}, "no factor"), ({"rope_type": "llama3", "factor": None}, "no factor")],
)  # fmt: skip
def test_other_rotary_scalings_are_refused(rope, word):
    with pytest.raises(FormatError, match=word):
        config_from_hf({**config_to_hf(TINY), "rope_scaling": rope}, "here")


@pytest.mark.parametrize(
    "change, word",
    [({"sliding_window": 4096}, "sliding_window is 4096"), ({"moe_args": {"num_experts": 16}}, "moe_args"), ({"use_qk_norm": True}, "use_qk_norm"),
     ({"lora_args": {"rank": 16}}, "lora_args"), ({"vision_chunk_size": 448}, "vision_chunk_size"), ({"something": "new"}, "something"),
     ({"use_scaled_rope": "false"}, "use_scaled_rope is 'false'"), ({"rope_theta": None}, "rope_theta is missing"), ({"dim": 10**400}, "dim|tensor"),
     ({"n_heads": None}, "n_heads"), ({"norm_eps": "small"}, "norm_eps")],
)  # fmt: skip
def test_what_params_json_says_is_computed_or_refused(change, word, tmp_path):
    source = random_checkpoint(shape("tiny-3.1"))
    convert(source, tmp_path / "meta", "meta")
    path = tmp_path / "meta" / "params.json"
    params = json.loads(path.read_text())
    harmless = {
        "vision_chunk_size": -1,
        "max_batch_size": 32,
        "vision_num_cross_attention_layers": -1,
        "quantization_args": None,
    }
    path.write_text(json.dumps({**params, **harmless}))
    assert open_checkpoint(tmp_path / "meta").config == source.config
    path.write_text(json.dumps({**params, **change}))
    with pytest.raises(HerdError, match=word):
        open_checkpoint(tmp_path / "meta")


def test_the_docs_name_every_key():
    for table in (gguf_config.COMPUTED, gguf_config.HARMLESS, gguf_config.PLAIN, gguf_config.TOKENIZER_PLAIN):
        assert [key for key in table if f"`{key.removeprefix('llama.')}`" not in DOCS and f"`{key}`" not in DOCS] == []
    for table in (hf_config.COMPUTED, hf_config.HARMLESS, hf_config.PLAIN, meta.COMPUTED, meta.HARMLESS):
        assert [key for key in table if f"`{key}`" not in DOCS] == []


def test_a_tie_that_is_no_truth_value_is_refused():
    with pytest.raises(FormatError, match="tie_word_embeddings is 'false'; expected true or false"):
        config_from_hf({**config_to_hf(TINY), "tie_word_embeddings": "false"}, "here")


@pytest.mark.parametrize("key", ["bos", "eos", "eot", "eom"])
def test_starts_and_ends_that_are_no_tokens_are_refused(key):
    name = f"tokenizer.ggml.{key}_token_id"
    vocabulary = {"model": "gpt2", "pre": "llama-bpe", "tokens": ["a", "b", "c"], "token_type": [1, 1, 1], "merges": []}
    metadata = {f"tokenizer.ggml.{part}": value for part, value in vocabulary.items()}
    for part in ("tokens", "merges"):
        metadata[f"tokenizer.ggml.{part}"] = Strings(vocabulary[part])
    for none in (-1, 2**32 - 1):
        assert getattr(tokenizer_from_gguf({**metadata, name: none}, "here").declared, key) is None
    assert getattr(tokenizer_from_gguf({**metadata, name: 2}, "here").declared, key) == 2
    for wrong in (3, 1_000_000, "2", -2):
        with pytest.raises(FormatError, match=f"{name} is .*expected one of the 3 tokens"):
            tokenizer_from_gguf({**metadata, name: wrong}, "here")
