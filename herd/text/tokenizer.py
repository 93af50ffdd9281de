"""What every tokenizer does, and the decoder that turns a stream of tokens into whole characters."""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # Ids of many texts one after another [total], and where each begins, with the end [texts + 1].
    Batch = tuple[NDArray[np.uint32], NDArray[np.int64]]


@dataclass(frozen=True)
class Declared:
    """Token ids that a checkpoint names for a purpose, as it declares them; None where it says nothing.

    `stops` are all that are declared to end a reply, in the checkpoint's order. `add_bos` and `add_eos`: whether every text
    begins and ends with them.
    """

    bos: int | None = None
    eos: int | None = None
    eot: int | None = None
    eom: int | None = None
    pad: int | None = None
    unk: int | None = None
    stops: tuple[int, ...] = ()
    add_bos: bool = False
    add_eos: bool = False

    @property
    def first(self) -> int | None:
        """The token that every prompt starts with, if any."""
        return self.bos if self.add_bos else None


class Tokenizer(Protocol):
    """Strings to token ids and back. Text given to `encode` never becomes a special token.

    `bos_id` is what a prompt starts with, `stop_ids` what ends a reply: the declared ones and those with a known name.
    """

    vocab_size: int
    special_tokens: dict[str, int]
    declared: Declared
    bos_id: int | None
    stop_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; the name of a special token in it is text like any other."""
        ...

    def encode_batch(self, texts: Iterable[str], *, threads: int | None = None) -> "Batch":
        """`encode` of each text, on all cores or `threads` of them."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for (a special token's name); b"" for an id without a token."""
        ...

    def to_json(self) -> str:
        """The tokenizer in Hugging Face's `tokenizer.json` format."""
        ...


def encode_special(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of text in which the names of special tokens are read as those tokens: for text that is trusted."""
    special = tokenizer.special_tokens
    names = sorted(special, key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    tokens: list[int] = []
    for piece in pieces:
        tokens += [special[piece]] if piece in special else tokenizer.encode(piece) if piece else []
    return tokens


def decode(tokenizer: Tokenizer, tokens: Iterable[int], *, special: bool = True) -> str:
    """Text of `tokens`; invalid UTF-8 becomes U+FFFD. `special=False` leaves special tokens out."""
    hidden = frozenset() if special else frozenset(tokenizer.special_tokens.values())
    return b"".join(tokenizer.token_bytes(t) for t in tokens if t not in hidden).decode("utf-8", errors="replace")


class StreamDecoder:
    """Decodes one token at a time and never emits half of a UTF-8 character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Characters completed by `token`, possibly none."""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left: U+FFFD for an unfinished character, or nothing."""
        return self._utf8.decode(b"", final=True)
