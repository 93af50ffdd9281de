"""Pre-tokenizers by their whole meaning, ends of replies however they are typed, and more tokens than rows."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import tokenizers

from herd.errors import FormatError
from herd.family import shape
from herd.text.chat_format import chat_format
from herd.text.gguf import GGUFTokenizer
from herd.text.pre_tokenizers import LLAMA3_PATTERN, PRE_TOKENIZERS, QWEN2_PATTERN, STEPS, recognize
from herd.text.tokenizer import Declared
from herd.text.tokenizer_json import HFTokenizer, tokenizer_spec
from herd.text.vocabulary import GGUF_CONTROL, GGUF_USER_DEFINED, byte_alphabet
from herd.weights.convert import convert
from herd.weights.gguf_tokenizer import _pre
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint

LLAMA_CPP = json.loads((Path(__file__).parents[1] / "data" / "llama_cpp_names.json").read_text())
BYTES = list(byte_alphabet())


def vocabulary(**tokens: int) -> dict:
    return {"tokens": [*BYTES, *tokens], "types": [1] * 256 + list(tokens.values()), "merges": []}


def spec(cut: str, ignore_merges: bool = False, **change) -> dict:
    ids = {token: i for i, token in enumerate(BYTES)}
    return {**tokenizer_spec(ids, [], STEPS[cut], {}, ignore_merges=ignore_merges), **change}


@pytest.mark.parametrize("pre", LLAMA_CPP["pre_tokenizers"])
def test_each_pre_tokenizer_of_llama_cpp_runs_or_is_refused_by_name(pre):
    if pre not in PRE_TOKENIZERS:
        with pytest.raises(FormatError, match=f"'{pre}'.*herd does not run"):
            GGUFTokenizer(pre=pre, **vocabulary())
        return
    ours = GGUFTokenizer(pre=pre, **vocabulary())
    assert recognize(json.loads(ours.to_json())) in PRE_TOKENIZERS
    assert ours.as_hf.gguf_vocabulary[0] == recognize(json.loads(ours.to_json()))
    assert PRE_TOKENIZERS[ours.as_hf.gguf_vocabulary[0]][:2] == PRE_TOKENIZERS[pre][:2]


@pytest.mark.parametrize(
    "cut, ignore_merges, steps, name",
    [
        ("llama3", True, None, "llama-bpe"), ("llama3", False, None, "smaug-bpe"), ("qwen2", False, None, "qwen2"),
        ("gpt2", False, None, "gpt-2"), ("smollm", False, None, "smollm"), ("seed-coder", False, None, "seed-coder"),
        ("tekken", True, None, "tekken"), ("o200k", False, None, "gpt-4o"), ("deepseek-llm", False, None, "deepseek-llm"),
        ("deepseek-coder", False, None, "deepseek-coder"), ("deepseek-v3", False, None, "deepseek-v3"),
        ("gpt2", False, {"type": "ByteLevel", "add_prefix_space": False}, "gpt-2"),
        ("llama3", True, {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Removed", "invert": True}]},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]}, "llama-bpe"),
    ],
)  # fmt: skip
def test_spellings_of_one_meaning_have_one_name(cut, ignore_merges, steps, name):
    assert recognize(spec(cut, ignore_merges, **({"pre_tokenizer": steps} if steps else {}))) == name


DEEPSEEK_V3 = [
    {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"Regex": "[一-龥぀-ゟ゠-ヿ]+"}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
]
DEEPSEEK_LLM = [
    {"type": "Split", "pattern": {"Regex": "[\r\n]"}, "behavior": "Isolated", "invert": False},
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
]
O200K = QWEN2_PATTERN.replace(r"\p{L}+", r"[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+").replace(r"|\p{N}", r"|\p{N}{1,3}")


@pytest.mark.parametrize(
    "change, word",
    [
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": DEEPSEEK_V3}}, "pre-tokenizer"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": DEEPSEEK_LLM}}, "Digits"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {**STEPS["deepseek-v3"][0], "behavior": "Removed", "invert": True}, *STEPS["deepseek-v3"][1:]]}}, "Split"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": O200K}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}}, "Split"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}}, "ByteLevel"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, *STEPS["gpt2"]]}}, "Whitespace"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": False}, *STEPS["gpt2"]]}}, "Digits"),
        ({"normalizer": {"type": "NFC"}}, "NFC"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}}, "Lowercase"),
        ({"normalizer": {"type": "Prepend", "prepend": "x"}}, "Prepend"),
        ({"added_tokens": [{"id": 256, "content": "<x>", "special": False, "lstrip": True, "rstrip": False,
                            "single_word": False, "normalized": False}]}, "lstrip"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_say_is_refused_and_runs_as_it_is(change, word):
    odd = spec("gpt2", **change)
    tokenizer = HFTokenizer(copy.deepcopy(odd))
    with pytest.raises(FormatError, match=word):
        tokenizer.gguf_vocabulary  # noqa: B018
    theirs = tokenizers.Tokenizer.from_str(json.dumps(odd))
    for text in ("Ä " * 9000, "Hello 123 World\n" * 1000):  # long ones are not cut where a cut could show
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", [1, GGUF_USER_DEFINED, GGUF_CONTROL])
@pytest.mark.parametrize("name", ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>"])
def test_ends_stop_a_reply_however_they_are_typed(kind, name):
    tokenizer = GGUFTokenizer(pre="gpt-2", **vocabulary(**{name: kind}))
    assert tokenizer.stop_ids == {256}
    assert tokenizer.special_tokens == {name: 256}
    assert 256 not in tokenizer.encode(f"say {name} now")
    ids = {token: i for i, token in enumerate([*BYTES, name])}
    hf = HFTokenizer(tokenizer_spec(ids, [], STEPS["gpt2"], {}, ignore_merges=False, user_defined={name: 256}))
    assert hf.stop_ids == {256}
    assert 256 not in hf.encode(f"say {name} now")


def test_a_declared_end_of_a_name_of_its_own_is_special():
    tokenizer = GGUFTokenizer(
        pre="gpt-2",
        declared=Declared(eos=256, stops=(256,)),
        **vocabulary(**{"<|over|>": GGUF_USER_DEFINED, "[and]": 4}),
    )
    assert tokenizer.stop_ids == {256}
    assert 256 not in tokenizer.encode("<|over|>")
    assert tokenizer.encode("[and]") == [257]


@pytest.mark.parametrize("kind", [1, GGUF_USER_DEFINED, GGUF_CONTROL])
def test_what_a_template_writes_after_a_turn_ends_a_reply(kind):
    tokenizer = GGUFTokenizer(pre="gpt-2", **vocabulary(**{"<|said|>": kind, "<|user|>": GGUF_CONTROL}))
    assert tokenizer.stop_ids == frozenset()
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %} <|said|>\n{% endif %}{% endfor %}"
    chat_format(tokenizer, template)
    assert tokenizer.stop_ids == {256}


def test_a_template_without_an_end_adds_none():
    tokenizer = GGUFTokenizer(pre="gpt-2", **vocabulary(**{"<|user|>": GGUF_CONTROL}))
    chat_format(tokenizer, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    chat_format(tokenizer, "{{ raise_exception('no') }}")
    assert tokenizer.stop_ids == frozenset()


def test_more_tokens_than_rows_are_banned_and_not_written(tmp_path):
    config = dataclasses.replace(shape("tiny"), vocab=258)

    def load() -> GGUFTokenizer:
        tokens = {"he": 1, "<|im_end|>": GGUF_CONTROL, "ll": 1, "<|spare|>": GGUF_CONTROL}
        return GGUFTokenizer(pre="gpt-2", **{**vocabulary(**tokens), "merges": ["h e", "l l"]})

    checkpoint = dataclasses.replace(random_checkpoint(config), load_tokenizer=load)
    tokenizer = checkpoint.tokenizer
    assert tokenizer.vocab_size == 258
    assert tokenizer.special_tokens == {"<|im_end|>": 257}
    assert tokenizer.encode("hello") == [256, *load().encode("l"), *load().encode("l"), *load().encode("o")]
    assert tokenizer.encode_batch(["hello", "he"])[1].tolist() == [0, 4, 5]
    for kind in ("hf", "meta", "gguf"):
        with pytest.raises(FormatError, match="2 more tokens than the embedding's 258 rows"):
            convert(checkpoint, tmp_path / kind, kind)
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_pre_tokenizer(tmp_path):
    convert(random_checkpoint(shape("tiny-3.1")), tmp_path / "x.gguf", "gguf")
    data = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "x.gguf").write_bytes(data.replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.pxe"))
    with pytest.warns(UserWarning, match=r"no tokenizer\.ggml\.pre; words are cut as GPT-2's"):
        open_checkpoint(tmp_path / "x.gguf").tokenizer  # noqa: B018


def test_llama_3s_vocabulary_is_known_without_a_name(meta_tokenizer):
    merges = json.loads(meta_tokenizer.to_json())["model"]["merges"]
    tokens = [*meta_tokenizer.ranks, *meta_tokenizer.special_tokens]
    assert _pre({}, {"tokens": tokens, "merges": merges}, "here") == "llama-bpe"
