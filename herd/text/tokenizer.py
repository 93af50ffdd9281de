"""What every tokenizer does, texts and conversations as tokens, and the decoder that makes whole characters of a stream."""

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # Ids of many texts one after another [total], and where each begins, with the end [texts + 1].
    Batch = tuple[NDArray[np.uint32], NDArray[np.int64]]

# In every pre-tokenizer here a word ends between a letter or digit and the whitespace after it.
_LONG, _WORD_END = 8_000, re.compile(r"(?<=[^\W_])(?=\s)")
Span = tuple[int, int]


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


def several(texts: Iterable[str]) -> Iterable[str]:
    """The texts of a batch; TypeError for a single one, whose characters would be taken for texts."""
    if isinstance(texts, str):
        raise TypeError("texts is one string; expected several, as in [text]")
    return texts


def well_formed(text: str) -> bytes:
    """UTF-8; lone surrogates become U+FFFD, as tiktoken makes them."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def cut_long(text: str) -> list[str]:
    """Parts of some thousand characters of a long text, cut where no token crosses."""
    cuts = [0]
    while len(text) > cuts[-1] + _LONG and (cut := _WORD_END.search(text, cuts[-1] + _LONG)) is not None:
        cuts.append(cut.end())
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


class Encoded:
    """A conversation as `tokens`, and `loss_mask`, as long: True for tokens of an assistant's turn and for the one that ends it.

    The mask is made when it is asked for, since a prompt needs none. RequestError there for a template that does not
    tell which text is an assistant's.
    """

    def __init__(self, tokens: list[int], mask: Callable[[], list[bool]]) -> None:
        self.tokens = tokens
        self._mask = mask

    @cached_property
    def loss_mask(self) -> list[bool]:
        """Whether each token counts."""
        return self._mask()


def covered(lengths: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """Whether each of neighbouring pieces of these lengths has a part in one of the spans, which are sorted."""
    mask, start, i = [], 0, 0
    for length in lengths:
        while i < len(spans) and spans[i][1] <= start:
            i += 1
        mask.append(i < len(spans) and spans[i][0] < start + length)
        start += length
    return mask
