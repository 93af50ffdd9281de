"""A GGUF file's vocabulary, run by our own byte-level BPE in C++ (`csrc/`): built in milliseconds, since a chat waits for it."""

import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from herd.errors import FormatError
from herd.text._bpe import Bpe, Strings
from herd.text.pre_tokenizers import CUTS, pre_tokenizer
from herd.text.tokenizer import Declared, cut_long, several, well_formed
from herd.text.vocabulary import (
    ALWAYS_SPECIAL,
    GGUF_CONTROL,
    GGUF_USER_DEFINED,
    looks_special,
    stops_of,
)

if TYPE_CHECKING:
    from herd.text.tokenizer import Batch
    from herd.text.tokenizer_json import HFTokenizer

_PLAIN, _SPECIAL, _USER = range(3)
_KIND_OF_TYPE = bytes({GGUF_CONTROL: _SPECIAL, GGUF_USER_DEFINED: _USER}.get(t, _PLAIN) for t in range(256))


class GGUFTokenizer:
    """A byte-level BPE as GGUF holds it: names and types of tokens, merges, and the name of a pre-tokenizer."""

    def __init__(
        self,
        *,
        pre: str,
        tokens: Strings | Sequence[str],
        types: Sequence[int],
        merges: Strings | Sequence[str],
        declared: Declared = Declared(),
    ) -> None:
        words = pre_tokenizer(pre)
        if len(types) != len(tokens):
            raise FormatError(f"tokenizer.ggml.token_type has {len(types)} entries; expected {len(tokens)}")
        self._pre, self._types = pre, types
        self._tokens = tokens if isinstance(tokens, Strings) else Strings(list(tokens))
        self._merges = merges if isinstance(merges, Strings) else Strings(list(merges))
        try:
            each = bytearray(types).translate(_KIND_OF_TYPE)
        except ValueError as error:
            raise FormatError("tokenizer.ggml.token_type has a type that is none; expected 0 to 255") from error
        for token in (*self._tokens.find(list(ALWAYS_SPECIAL)), *self._ends(declared)):
            each[token] = _SPECIAL  # converters often type them as text; llama.cpp overrides that too
        kinds = bytes(each)
        try:
            self._bpe = Bpe(self._tokens, kinds, self._merges, CUTS.index(words.cut), words.whole_words)
        except ValueError as error:
            raise FormatError(f"tokenizer.ggml.merges: {error}") from error
        self.special_tokens = {self._tokens[m.start()]: m.start() for m in re.finditer(b"%c" % _SPECIAL, kinds)}
        self._cuts_long = _USER not in kinds  # a token of the user's may hold a space
        self.vocab_size = len(self._tokens)
        self.declared = declared
        self.bos_id = declared.first
        self.stop_ids = stops_of(self.special_tokens, declared.stops)

    def _ends(self, declared: Declared) -> list[int]:
        """Declared starts and ends whose names look like a special token's."""
        ids = {i for i in (declared.bos, *declared.stops) if i is not None and i < len(self._tokens)}
        return [i for i in ids if looks_special(self._tokens[i])]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; a long one is cut where no token can cross, and encoded on several threads."""
        parts = cut_long(text) if self._cuts_long else [text]
        if len(parts) > 1:
            ids: list[int] = self.encode_batch([text])[0].tolist()
            return ids
        return self._bpe.encode(well_formed(text))

    def encode_batch(self, texts: Iterable[str], *, threads: int | None = None) -> "Batch":
        """`encode` of each text, on all cores or `threads` of them."""
        pieces, ends = [], [0]
        for text in several(texts):
            pieces += [well_formed(part) for part in (cut_long(text) if self._cuts_long else [text])]
            ends.append(len(pieces))
        ids, offsets = self._bpe.encode_batch(pieces, threads or os.cpu_count() or 1)
        return ids, offsets[ends]

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for."""
        return self._bpe.token_bytes(token) if token >= 0 else b""

    @cached_property
    def as_hf(self) -> "HFTokenizer":
        """The same vocabulary as a `tokenizer.json`."""
        from herd.text.tokenizer_json import HFTokenizer  # a chat does not need it

        _, tokens, types, merges = self.gguf_vocabulary
        return HFTokenizer.from_gguf(pre=self._pre, tokens=tokens, types=types, merges=merges, declared=self.declared)

    def to_json(self) -> str:
        """The tokenizer in Hugging Face's format."""
        return self.as_hf.to_json()

    def tiktoken_ranks(self) -> dict[bytes, int] | None:
        """Meta's ranks when this is Llama 3's tokenizer, else None."""
        return self.as_hf.tiktoken_ranks()

    @property
    def gguf_vocabulary(self) -> tuple[str, list[str], list[int], list[str]]:
        """Pre-tokenizer name, tokens, token types and merges as a GGUF file holds them."""
        return self._pre, list(self._tokens), list(self._types), list(self._merges)
