"""Tokenizers against Meta's own (llama-models), llama.cpp's (golden file) and transformers'."""

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer
from tokenizers import Tokenizer

from herd.text.gguf import GGUFTokenizer
from herd.text.pre_tokenizers import PRE_TOKENIZERS, STEPS
from herd.text.tokenizer import Declared, decode
from herd.text.tokenizer_json import HFTokenizer
from herd.text.vocabulary import GGUF_USER_DEFINED, byte_alphabet
from tests.texts import texts


def split(batch):
    """A batch's texts apart, as lists."""
    ids, offsets = batch
    assert (ids.dtype, offsets.dtype) == ("uint32", "int64")
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


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
        assert split(meta_tokenizer.encode_batch([text, "x"])) == [
            meta_tokenizer.encode(text),
            meta_tokenizer.encode("x"),
        ]

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
    whole = smollm.tokenizer.as_hf._encoding.encode(text, add_special_tokens=False).ids
    assert smollm.tokenizer.encode(text) == whole


@pytest.fixture(scope="session")
def llama3_as_gguf(meta_tokenizer):
    """Meta's vocabulary with its merges, as a GGUF file holds it: 128,000 tokens, 280,000 merges."""
    pre, tokens, types, merges = HFTokenizer(json.loads(meta_tokenizer.to_json())).gguf_vocabulary
    return GGUFTokenizer(
        pre=pre, tokens=tokens, types=types, merges=merges, declared=Declared(bos=128_000, add_bos=True)
    )


# What pre-tokenizers look at: letters and numbers of many scripts and lengths, marks, every kind of whitespace, contractions in
# both cases and with the long s, special tokens' names, and characters that Unicode added of late.
_WORDS = (
    "'s 'S 'll 'LL 'Re '\u017f \u017f ' ! ... 1 12 1234 \u0663 \u2167 \xbd \u0301 e\u0301 \u093f \u0e33 \U0001d7d8 \U000323af "
    "\U00010d4a word WORD \u4e16\u754c \U0001f9d1\u200d\U0001f680 <|im_start|> <|eot_id|> <|endoftext|>"
)
_SPACES = (" ", "  ", "\t", "\n", "\r\n", "\xa0", "\u3000", "\u2028", "\x85", "\x1c", " word")
PIECES = st.one_of(
    st.sampled_from((*_WORDS.split(), *_SPACES)),
    st.text(max_size=6),
)


@pytest.mark.parametrize("vocabulary", ["smollm", "gpt-2", "qwen2", "llama-bpe"])
def test_our_bpe_equals_the_tokenizers_library(vocabulary, smollm, llama3_as_gguf):
    ours = llama3_as_gguf
    if vocabulary != "llama-bpe":
        _, tokens, types, merges = smollm.tokenizer.gguf_vocabulary
        types[tokens.index("<|im_start|>")] = GGUF_USER_DEFINED  # found in text before words are cut
        ours = GGUFTokenizer(pre=vocabulary, tokens=tokens, types=types, merges=merges)
    theirs = ours.as_hf

    @settings(max_examples=1500, deadline=None)
    @given(st.lists(PIECES, max_size=24).map("".join))
    def check(text):
        assert ours.encode(text) == theirs.encode(text)

    check()
    for text in (*texts().values(), "a" * 5000, "ab" * 3000 + " " * 3000, "\u4e16" * 999):
        assert ours.encode(text) == theirs.encode(text)
        assert split(ours.encode_batch([text, "x"])) == split(theirs.encode_batch([text, "x"]))
        assert split(ours.encode_batch([text, "x"])) == [theirs.encode(text), theirs.encode("x")]
    assert [ours.token_bytes(i) for i in range(ours.vocab_size + 1)] == [
        theirs.token_bytes(i) for i in range(ours.vocab_size + 1)
    ]
    assert ours.special_tokens == theirs.special_tokens
    assert ours.stop_ids == theirs.stop_ids
    library = Tokenizer.from_str(ours.to_json())
    assert {name: library.token_to_id(name) for name in ours.special_tokens} == ours.special_tokens
    if vocabulary != "llama-bpe":
        assert library.encode("<|im_start|>user hello").ids == [1, *ours.encode("user hello")]


# Cases, marks and prefixes in every order, signs of every kind, Chinese, kana, hangul, and spaces that are signs or ends of lines.
_LETTERS = (
    "a B \u00df \u00c9 \u01c5 \u02b0 \u4f60 \u3042 \uac00 \u0939 \u0301 \u093f \U000e0101 \u1c90 \ua7ae \U0001e900 1 \u0663 \u2167 "
    "' 's 'LL '\u017f ! / . _ \u2018 \u3002 \uff01 $ + \u20ac \U0001f680 \x00 \u200b \ufeff"
)
_CASES = st.lists(st.one_of(st.sampled_from((*_LETTERS.split(" "), *_SPACES, "/")), st.text(max_size=2)), max_size=20)


@pytest.fixture(scope="session")
def pairs():
    """Every byte and every two bytes: nearly any other cut of a text gives other tokens."""
    bytes_ = byte_alphabet()
    merges = [f"{a} {b}" for a in bytes_ for b in bytes_]
    tokens = [*bytes_, *(merge.replace(" ", "") for merge in merges)]
    return {"tokens": tokens, "types": [1] * len(tokens), "merges": merges}


@pytest.mark.parametrize("cut", STEPS)
def test_words_are_cut_as_the_tokenizers_library_cuts_them(cut, pairs):
    name = next(name for name, pre in PRE_TOKENIZERS.items() if pre.cut == cut and name != "llama-bpe")
    ours = GGUFTokenizer(pre=name, **pairs)
    theirs = ours.as_hf
    library = Tokenizer.from_str(theirs.to_json())

    @settings(max_examples=250, deadline=None)
    @given(_CASES.map("".join))
    def check(text):
        assert ours.encode(text) == library.encode(text).ids

    check()
    for text in texts().values():
        assert ours.encode(text) == library.encode(text).ids
    long = "\n \n".join(texts().values())  # encoded in parts
    assert ours.encode(long) == library.encode(long).ids == theirs.encode(long)


def test_our_bpe_gives_metas_tokens(meta, llama3_as_gguf):
    @settings(max_examples=500, deadline=None)
    @given(st.lists(PIECES, max_size=24).map("".join))
    def check(text):
        assert llama3_as_gguf.encode(text) == meta.encode(text, bos=False, eos=False)

    check()


@pytest.mark.slow
def test_meta_tokenizer_as_tokenizer_json(meta_tokenizer):
    """The merges derived from Meta's ranks give the same tokens, through herd and through transformers."""
    from transformers import PreTrainedTokenizerFast

    spec = json.loads(meta_tokenizer.to_json())
    ours = HFTokenizer(spec)
    assert ours.tiktoken_ranks() == meta_tokenizer.ranks
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    for text in texts().values():
        assert ours.encode(text) == meta_tokenizer.encode(text)
    assert theirs.encode("Hello <|eot_id|> world") != meta_tokenizer.encode("Hello <|eot_id|> world")
    assert theirs.encode("Hello world", add_special_tokens=False) == meta_tokenizer.encode("Hello world")


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_their_texts_one_after_another(threads, meta_tokenizer, smollm):
    lines = [line for text in texts().values() for line in (text, *text.splitlines())]
    nameless = json.loads(smollm.tokenizer.to_json())
    nameless["normalizer"] = {"type": "NFC"}  # which only the library runs
    nameless = HFTokenizer(nameless)
    for tokenizer in (smollm.tokenizer, smollm.tokenizer.as_hf, nameless, meta_tokenizer):
        assert split(tokenizer.encode_batch(lines, threads=threads)) == [tokenizer.encode(line) for line in lines]
        assert split(tokenizer.encode_batch(iter(lines[:3]))) == [tokenizer.encode(line) for line in lines[:3]]
        assert split(tokenizer.encode_batch([])) == []
