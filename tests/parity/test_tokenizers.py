"""Tokenizers against Meta's own (llama-models), llama.cpp's (golden file) and transformers'."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer

from herd.text.bpe import HFTokenizer
from herd.text.tokenizer import decode
from tests.texts import texts


@pytest.fixture(scope="session")
def meta(meta_tokenizer_file):
    return MetaTokenizer(meta_tokenizer_file)


@pytest.mark.parametrize("name", texts())
def test_meta_tokenizer_on_hard_texts(name, meta, meta_tokenizer):
    text = texts()[name]
    tokens = meta_tokenizer.encode(text)
    assert tokens == meta.encode(text, bos=False, eos=False)
    assert decode(meta_tokenizer, tokens) == text


def test_meta_tokenizer_cuts_long_runs_as_meta_does(meta, meta_tokenizer):
    rng = random.Random(0)
    for _ in range(12):
        lengths = (1, 3, 9_999, 24_999, 25_000, 25_001, 50_001, 140_000)
        text = "".join(rng.choice("ab \n=é") * rng.choice(lengths) for _ in range(12))
        assert meta_tokenizer.encode(text) == meta.encode(text, bos=False, eos=False)
    long = "word " * 90_000  # crosses the 400,000 character cut
    assert meta_tokenizer.encode(long) == meta.encode(long, bos=False, eos=False)


def test_meta_tokenizer_on_random_text(meta, meta_tokenizer):
    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=300))
    def check(text):
        assert meta_tokenizer.encode(text) == meta.encode(text, bos=False, eos=False)
        assert meta_tokenizer.encode_batch([text, "x"]) == [meta_tokenizer.encode(text), meta_tokenizer.encode("x")]

    check()


def test_special_tokens_have_metas_ids(meta, meta_tokenizer):
    assert meta_tokenizer.special_tokens == meta.special_tokens
    assert meta_tokenizer.stop_ids == frozenset(meta.stop_tokens)
    assert meta_tokenizer.vocab_size == meta.n_words == 128_256


@pytest.mark.parametrize("name", texts())
def test_gguf_tokenizer_equals_llama_cpp(name, smollm):
    golden = json.loads((Path(__file__).parent / "golden" / "tokens.json").read_text())
    tokens = smollm.tokenizer.encode(texts()[name])
    assert tokens == golden[name]
    # This vocabulary has no tokens for some control bytes; llama.cpp drops them too.
    assert name == "controls" or decode(smollm.tokenizer, tokens) == texts()[name]


def test_long_texts_are_cut_where_no_token_crosses(smollm):
    text = "\n\n".join(texts().values()) * 2
    whole = smollm.tokenizer._encoding.encode(text, add_special_tokens=False).ids
    assert smollm.tokenizer.encode(text) == whole


@pytest.mark.slow
def test_meta_tokenizer_as_tokenizer_json(meta_tokenizer):
    """The merges derived from Meta's ranks give the same tokens, through herd and through transformers."""
    from transformers import PreTrainedTokenizerFast

    spec = json.loads(meta_tokenizer.to_json())
    ours = HFTokenizer(spec)
    assert ours.tiktoken_ranks() == meta_tokenizer.ranks
    from tokenizers import Tokenizer

    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    for text in texts().values():
        assert ours.encode(text) == meta_tokenizer.encode(text)
    assert theirs.encode("Hello <|eot_id|> world") != meta_tokenizer.encode("Hello <|eot_id|> world")
    assert theirs.encode("Hello world", add_special_tokens=False) == meta_tokenizer.encode("Hello world")
