"""Meta's `tokenizer.model`: 128,000 ranks of bytes, run by tiktoken."""

import base64
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from herd.errors import FormatError, first_line
from herd.text.pre_tokenizers import LLAMA3_PATTERN, STEPS
from herd.text.tokenizer import Declared, several, well_formed
from herd.text.tokenizer_json import tokenizer_spec
from herd.text.vocabulary import LLAMA3_SPECIAL, one_batch, stops_of, to_characters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from herd.text.tokenizer import Batch

# Meta's tokenizer cuts its input into pieces of at most 400,000 characters and then cuts runs of whitespace, or of
# anything else, every 25,000 characters, so that the regular expression engine never overflows. The cuts change the
# tokens, so parity needs the same ones.
_PIECE, _RUN = 400_000, 25_000
_SPACES, _OTHERS = re.compile(r"\s*"), re.compile(r"\S*")


def _cut_runs(text: str) -> list[str]:
    """`text` cut where Meta's tokenizer cuts it; nearly always in one piece."""
    pieces = []
    for begin in range(0, len(text), _PIECE):
        piece = text[begin : begin + _PIECE]
        start = 0
        # A run longer than _RUN covers a multiple of _RUN, so looking there finds every one.
        position = 0
        while position < len(piece):
            same = _SPACES if piece[position].isspace() else _OTHERS
            low = max(start, position - _RUN)
            back = same.match(piece[low:position][::-1])
            run_start = position - (back.end() if back else 0)
            ahead = same.match(piece, position)
            run_end = ahead.end() if ahead else position
            for cut in range(run_start + _RUN, run_end, _RUN):
                pieces.append(piece[start:cut])
                start = cut
            position = max(position + _RUN, run_end // _RUN * _RUN)
        pieces.append(piece[start:])
    return pieces


class TiktokenTokenizer:
    """Meta's Llama 3 tokenizer: 128,000 ranks of bytes and 256 special tokens after them."""

    def __init__(self, ranks: dict[bytes, int], declared: Declared | None = None) -> None:
        import tiktoken

        if sorted(ranks.values()) != list(range(len(ranks))):
            raise FormatError("tokenizer.model: ranks are not 0, 1, 2, ...; expected Meta's Llama 3 tokenizer")
        self.special_tokens = {name: len(ranks) + i for i, name in enumerate(LLAMA3_SPECIAL)}
        self.vocab_size = len(ranks) + len(LLAMA3_SPECIAL)
        self.declared = declared or self._metas_own()
        self.bos_id = self.declared.first
        self.stop_ids = stops_of(self.special_tokens, self.declared.stops)
        self.ranks = ranks
        try:
            self._encoding = tiktoken.Encoding(
                "llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens
            )
        except BaseException as error:  # a Rust panic on an incomplete byte alphabet is not an Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            raise FormatError(f"tokenizer.model: tiktoken refuses its ranks ({first_line(error)})") from error

    def _metas_own(self) -> Declared:
        """What Meta's instruct models declare on Hugging Face: there its own files say nothing."""
        ids = self.special_tokens
        stops = tuple(ids[name] for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"))
        bos, pad = ids["<|begin_of_text|>"], ids["<|finetune_right_pad_id|>"]
        return Declared(bos=bos, eos=stops[2], pad=pad, stops=stops, add_bos=True)

    @classmethod
    def from_file(cls, path: Path) -> "TiktokenTokenizer":
        """Read lines of base64 token and rank; raises FormatError naming the line that is neither."""
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if not line:
                continue
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except ValueError as error:
                raise FormatError(f"{path}:{number}: expected a base64 token and its rank") from error
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise FormatError(f"{path}: no token for byte {missing[0]}; expected Meta's tokenizer.model")
        return cls(ranks)

    def encode(self, text: str) -> list[int]:
        """Token ids, cut into pieces exactly as Meta's own tokenizer does."""
        pieces = _cut_runs(text)
        if len(pieces) == 1:
            return self._encoding.encode_ordinary(pieces[0])
        return [token for part in self._encoding.encode_ordinary_batch(pieces) for token in part]

    def encode_batch(self, texts: Iterable[str], *, threads: int | None = None) -> "Batch":
        """`encode` of each text, on all cores or `threads` of them."""
        import numpy as np

        def encode(text: str) -> "NDArray[np.uint32]":
            pieces = _cut_runs(well_formed(text).decode()) or [""]
            return np.concatenate([self._encoding.encode_to_numpy(part, disallowed_special=()) for part in pieces])

        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            return one_batch(pool.map(encode, several(texts)))

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for."""
        try:
            return self._encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):
            return b""

    def to_model_file(self) -> bytes:
        """The bytes of a `tokenizer.model`."""
        return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in self.ranks.items())

    def to_json(self) -> str:
        """A `tokenizer.json` that gives the same tokens: every split of a token into two tokens is a merge."""
        merges = []
        for token, rank in self.ranks.items():
            splits = ((token[:i], token[i:]) for i in range(1, len(token)))
            pairs = [(self.ranks[a], self.ranks[b], a, b) for a, b in splits if a in self.ranks and b in self.ranks]
            merges += [(rank, *pair) for pair in pairs]
        merges.sort(key=lambda merge: merge[:3])
        spec = tokenizer_spec(
            {to_characters(token): rank for token, rank in self.ranks.items()},
            [[to_characters(a), to_characters(b)] for *_, a, b in merges],
            STEPS["llama3"],
            self.special_tokens,
            ignore_merges=True,
        )
        return json.dumps(spec, ensure_ascii=False)
