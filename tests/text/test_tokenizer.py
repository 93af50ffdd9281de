import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import FormatError
from herd.text.gguf import GGUFTokenizer
from herd.text.meta import TiktokenTokenizer
from herd.text.tokenizer import StreamDecoder, decode
from herd.weights.sidecars import read_tokenizer
from tests.models import byte_tokenizer
from tests.text.make_unicode import header


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_stream_decoder_never_emits_half_a_character(text):
    tokenizer = byte_tokenizer()  # one token a byte: every character is cut
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + decoder.finish() == text.encode("utf-8", "replace").decode()
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_broken_bytes_become_replacement_characters():
    tokenizer = byte_tokenizer()
    ids = [tokenizer.encode("é")[0], *tokenizer.encode("a")]
    decoder = StreamDecoder(tokenizer)
    streamed = "".join(decoder.push(i) for i in ids) + decoder.finish()
    assert streamed == decode(tokenizer, ids) == "\ufffda"


def test_one_string_is_no_batch(smollm, meta_tokenizer):
    for tokenizer in (smollm.tokenizer, smollm.tokenizer.as_hf, meta_tokenizer):
        with pytest.raises(TypeError, match=r"expected several, as in \[text\]"):
            tokenizer.encode_batch("text")


def test_lone_surrogates_do_not_raise(smollm, meta_tokenizer):
    assert decode(smollm.tokenizer, smollm.tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert decode(meta_tokenizer, meta_tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize(
    "content, word",
    [
        (b"not base64 at all\n", ":1"),
        (b"!!!! 0\n", ":1"),
        (b"YQ== 0\nYg== x\n", ":2"),
        (b"YQ== 0\n", "byte 0"),
        (b"", "byte 0"),
    ],
)
def test_damaged_tokenizer_model(tmp_path, content, word):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(FormatError, match=word):
        TiktokenTokenizer.from_file(file)


def test_ranks_with_gaps_are_refused():
    ranks = {bytes([i]): i * 2 for i in range(256)}
    with pytest.raises(FormatError, match="ranks"):
        TiktokenTokenizer(ranks)
    assert base64.b64encode(b"\x00") + b" 0\n" in TiktokenTokenizer({bytes([i]): i for i in range(256)}).to_model_file()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"model": 3}',
        '{"model": {"type": "Unigram"}}',
        '{"model": {"type": "BPE", "vocab": {}}}',
        "[" * 9999,
    ],
)
def test_damaged_tokenizer_json(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(FormatError):
        read_tokenizer(tmp_path)


def test_unknown_gguf_pre_tokenizer_is_named():
    with pytest.raises(FormatError, match="falcon"):
        GGUFTokenizer(pre="falcon", tokens=["a"], types=[1], merges=[])


@pytest.mark.parametrize("merge", ["ab", "a x", "x b", "a c", "\u4e16 b", ""])
def test_a_merge_of_what_is_no_token_is_named(merge):
    with pytest.raises(FormatError, match="merge"):
        GGUFTokenizer(pre="gpt-2", tokens=["a", "b", "ab", "c", "\u4e16"], types=[1] * 5, merges=["a b", merge])


@pytest.mark.parametrize("types", [[1], [1, 300], [1, -1]])
def test_wrong_token_types_are_refused(types):
    with pytest.raises(FormatError, match="token_type"):
        GGUFTokenizer(pre="gpt-2", tokens=["a", "b"], types=types, merges=[])


def test_the_table_of_character_classes_is_the_librarys():
    assert (Path(__file__).parents[2] / "herd/text/csrc/unicode.h").read_text() == header()
