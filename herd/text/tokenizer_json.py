"""Hugging Face's `tokenizer.json` with a byte-level BPE, run by the `tokenizers` library."""

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from herd.errors import FormatError, first_line
from herd.text.pre_tokenizers import PRE_TOKENIZERS, STEPS, recognize
from herd.text.tokenizer import Declared, cut_long, several, well_formed
from herd.text.vocabulary import (
    ALWAYS_SPECIAL,
    GGUF_CONTROL,
    GGUF_USER_DEFINED,
    LLAMA3_SPECIAL,
    looks_special,
    one_batch,
    stops_of,
    to_bytes,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from herd.text.gguf import GGUFTokenizer
    from herd.text.tokenizer import Batch

_GROUP = 1_024  # texts given to the threads at a time


class HFTokenizer:
    """A byte-level BPE in the `tokenizer.json` format, run by the `tokenizers` library."""

    def __init__(self, spec: dict[str, Any], declared: Declared = Declared()) -> None:
        import tokenizers

        model = spec.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            kind = model.get("type") if isinstance(model, dict) else None
            raise FormatError(f"tokenizer.json: model type {kind!r}; expected a byte-level BPE")
        if "ByteLevel" not in json.dumps(spec.get("pre_tokenizer")) or model.get("byte_fallback"):
            raise FormatError("tokenizer.json: not a byte-level BPE (SentencePiece style); herd runs byte-level ones")
        added = [token for token in spec.get("added_tokens") or [] if isinstance(token, dict)]
        self.special_tokens = _special(added, model["vocab"], declared)
        self._spec = spec
        # Special tokens and the post-processor that writes them are taken out: plain text cannot become one.
        vocab = {name: i for name, i in model["vocab"].items() if name not in self.special_tokens}
        text_tokens = [t for t in added if t["content"] not in self.special_tokens]
        vocab |= {t["content"]: t["id"] for t in text_tokens}
        plain = {
            **spec,
            "added_tokens": text_tokens,
            "post_processor": None,
            "truncation": None,
            "padding": None,
            "model": {**model, "vocab": vocab},
        }
        try:
            self._encoding = tokenizers.Tokenizer.from_buffer(msgspec.json.encode(plain))
        except BaseException as error:  # the library raises plain Exception, and panics on some damage
            if isinstance(error, KeyboardInterrupt):
                raise
            raise FormatError(f"tokenizer.json: {first_line(error)}") from error
        self._names = {i: name for name, i in vocab.items()}
        self._added = {t["id"]: t["content"].encode() for t in added}
        # Only where every step is known can it be said where no token crosses.
        self._cuts_long = not text_tokens and self._pre is not None
        self.vocab_size = max([*self._names, *self._added], default=-1) + 1
        self.declared = declared
        self.bos_id = declared.first
        self.stop_ids = stops_of(self.special_tokens, declared.stops)

    @classmethod
    def from_spec(cls, spec: dict[str, Any], declared: Declared, where: str) -> "HFTokenizer":
        """The tokenizer that the contents of a `tokenizer.json` describe; FormatError naming `where` for damaged ones."""
        try:
            return cls(spec, declared)
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{where}: damaged: {first_line(error)}") from error

    @classmethod
    def from_gguf(
        cls, *, pre: str, tokens: list[str], types: list[int], merges: list[str], declared: Declared
    ) -> "HFTokenizer":
        """Build from a GGUF file's vocabulary, which `GGUFTokenizer` has checked."""
        kinds = dict(zip(tokens, types, strict=True))
        ids = {token: i for i, token in enumerate(tokens)}
        special = {name: i for name, i in ids.items() if kinds[name] == GGUF_CONTROL}
        user_defined = {name: i for name, i in ids.items() if kinds[name] == GGUF_USER_DEFINED}
        spec = tokenizer_spec(
            ids,  # with the special ones: the library gives ids of its own to added tokens that are not in the vocabulary
            [merge.split(" ", 1) for merge in merges],
            STEPS[PRE_TOKENIZERS[pre].cut],
            special,
            ignore_merges=PRE_TOKENIZERS[pre].whole_words,
            user_defined=user_defined,
        )
        return cls(spec, declared)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; a long one is cut where no token can cross, and encoded on several threads."""
        parts = cut_long(text) if self._cuts_long else [text]
        if len(parts) > 1:
            return [token for one in self._encode_all(parts) for token in one.ids]
        ids: list[int] = self._encoding.encode(well_formed(text).decode(), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Iterable[str], *, threads: int | None = None) -> "Batch":
        """`encode` of each text, on all cores or `threads` of them: by our own BPE where it has this pre-tokenizer.

        Elsewhere the library makes a list a text: its Python interface gives ids as lists only.
        """
        import numpy as np

        if self._native is not None:
            return self._native.encode_batch(texts, threads=threads)

        def encode(text: str) -> "NDArray[np.uint32]":
            return np.array(self.encode(text), np.uint32)

        rest = iter(several(texts))
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            groups = iter(lambda: list(itertools.islice(rest, _GROUP)), [])
            return one_batch(ids for group in groups for ids in pool.map(encode, group))

    @cached_property
    def _native(self) -> "GGUFTokenizer | None":
        """The same vocabulary for our own BPE; None where it has no such pre-tokenizer."""
        from herd.text.gguf import GGUFTokenizer

        if self._pre is None or self.vocab_size > 2 * len(self._names) + 4096:  # nor where ids have wide gaps
            return None
        pre, tokens, types, merges = self.gguf_vocabulary
        special = set(self.special_tokens.values())
        types = [GGUF_CONTROL if i in special else kind for i, kind in enumerate(types)]
        return GGUFTokenizer(pre=pre, tokens=tokens, types=types, merges=merges)

    def _encode_all(self, texts: Sequence[str]) -> Any:
        return self._encoding.encode_batch_fast([well_formed(t).decode() for t in texts], add_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for."""
        added = self._added.get(token)
        return to_bytes(self._names.get(token, "")) if added is None else added

    def to_json(self) -> str:
        """The tokenizer as it was read or built."""
        return json.dumps(self._spec, ensure_ascii=False)

    def tiktoken_ranks(self) -> dict[bytes, int] | None:
        """Meta's ranks when this is Llama 3's tokenizer (its splitting, its special names after the ranks), else None."""
        specials = sorted(self.special_tokens, key=self.special_tokens.__getitem__)
        vocab = self._spec["model"]["vocab"]
        text_tokens = {to_bytes(name): i for name, i in vocab.items() if name not in self.special_tokens}
        is_llama3 = (
            specials == list(LLAMA3_SPECIAL)
            and self.special_tokens[specials[0]] == len(text_tokens)
            and self.special_tokens[specials[-1]] == len(text_tokens) + len(specials) - 1
            and sorted(text_tokens.values()) == list(range(len(text_tokens)))
            and self._pre == "llama-bpe"
        )
        return dict(sorted(text_tokens.items(), key=lambda item: item[1])) if is_llama3 else None

    @cached_property
    def _pre(self) -> str | None:
        try:
            return recognize(self._spec)
        except FormatError:
            return None

    @cached_property
    def gguf_vocabulary(self) -> tuple[str, list[str], list[int], list[str]]:
        """Pre-tokenizer name, tokens, token types and merges as a GGUF file holds them."""
        pre = recognize(self._spec)
        names = {i: name for name, i in self._spec["model"]["vocab"].items()}
        types = dict.fromkeys(names, 1)
        for token in self._spec.get("added_tokens") or []:
            names[token["id"]] = token["content"]
            types[token["id"]] = GGUF_CONTROL if token.get("special") else GGUF_USER_DEFINED
        ids = range(self.vocab_size)
        merges = [m if isinstance(m, str) else " ".join(m) for m in self._spec["model"]["merges"]]
        return pre, [names.get(i, f"[PAD{i}]") for i in ids], [types.get(i, 5) for i in ids], merges


def _special(added: list[dict[str, Any]], vocab: dict[str, int], declared: Declared) -> dict[str, int]:
    """Tokens that only templates write: those so marked, and ends that a file types as text."""
    ends = {i for i in (declared.bos, *declared.stops) if i is not None}
    special = {name: vocab[name] for name in ALWAYS_SPECIAL if name in vocab}
    for token in added:
        name, i = token["content"], token["id"]
        if token.get("special") or name in ALWAYS_SPECIAL or (i in ends and looks_special(name)):
            special[name] = i
    return special


def tokenizer_spec(
    vocab: dict[str, int],
    merges: list[list[str]],
    pre_tokenizers: list[dict[str, Any]],
    special: Mapping[str, int],
    *,
    ignore_merges: bool,
    user_defined: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The contents of a `tokenizer.json`: a byte-level BPE whose added tokens are `special` and `user_defined`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": name, **flags, "special": True} for name, i in special.items()]
    added += [{"id": i, "content": name, **flags, "special": False} for name, i in (user_defined or {}).items()]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
        "vocab": vocab, "merges": merges,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }  # fmt: skip
