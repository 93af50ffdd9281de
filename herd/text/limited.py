"""A tokenizer that has more tokens than its model has rows: the spare ones can be neither read nor written."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from herd.errors import FormatError
from herd.text.tokenizer import Declared, Tokenizer, several
from herd.text.vocabulary import one_batch

if TYPE_CHECKING:
    from herd.text.tokenizer import Batch


class LimitedTokenizer:
    """`inner` without its tokens from `vocab_size` on: text that would become one is spelt with the tokens of its bytes."""

    def __init__(self, inner: Tokenizer, vocab_size: int) -> None:
        self._inner, self.vocab_size = inner, vocab_size
        self._spare = inner.vocab_size - vocab_size
        self.special_tokens = {name: i for name, i in inner.special_tokens.items() if i < vocab_size}
        self.stop_ids = frozenset(i for i in inner.stop_ids if i < vocab_size)
        self.declared: Declared = inner.declared
        self.bos_id = inner.bos_id if inner.bos_id is None or inner.bos_id < vocab_size else None
        self._byte_ids: dict[bytes, int] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, all below `vocab_size`; FormatError where a byte has no token there."""
        ids = self._inner.encode(text)
        if max(ids, default=0) < self.vocab_size:
            return ids
        return [known for token in ids for known in ([token] if token < self.vocab_size else self._spelt(token))]

    def encode_batch(self, texts: Iterable[str], *, threads: int | None = None) -> "Batch":
        """`encode` of each text, on all cores or `threads` of them."""
        import numpy as np

        texts = list(several(texts))
        ids, offsets = self._inner.encode_batch(texts, threads=threads)
        if ids.max(initial=0) < self.vocab_size:
            return ids, offsets
        return one_batch(np.array(self.encode(text), np.uint32) for text in texts)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; b"" for a spare one."""
        return self._inner.token_bytes(token) if token < self.vocab_size else b""

    def to_json(self) -> str:
        """Refused: what is written would be as odd as what was read."""
        raise FormatError(self.refusal)

    @property
    def refusal(self) -> str:
        """Why a checkpoint with this tokenizer is not written."""
        return (
            f"the tokenizer has {self._spare} more tokens than the embedding's {self.vocab_size} rows; herd runs such a "
            "model without them, and does not write it: give the embedding these rows, or take the tokens out"
        )

    def _spelt(self, token: int) -> list[int]:
        if not self._byte_ids:
            known = ((self._inner.token_bytes(i), i) for i in range(self.vocab_size - 1, -1, -1))
            special = set(self.special_tokens.values())
            self._byte_ids = {word: i for word, i in known if len(word) == 1 and i not in special}
        word = self._inner.token_bytes(token)
        missing = next((byte for byte in word if bytes([byte]) not in self._byte_ids), None)
        if missing is not None:
            raise FormatError(
                f"token {token} is beyond the embedding's rows, and byte {missing} has no token below them"
            )
        return [self._byte_ids[bytes([byte])] for byte in word]
