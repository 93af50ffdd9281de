"""Byte-level BPE tokenizers: Meta's `tokenizer.model` on tiktoken, Hugging Face's `tokenizer.json` on the `tokenizers` library.

GGUF vocabularies have a file of their own, `gguf.py`.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec

from herd.errors import FormatError, first_line

LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>", "<|image|>", *(f"<|reserved_special_token_{i}|>" for i in range(2, 246)),
)  # fmt: skip
_STOP_NAMES = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "</s>")

# Meta's tokenizer cuts its input into pieces of at most 400,000 characters and then cuts runs of whitespace, or of
# anything else, every 25,000 characters, so that the regular expression engine never overflows. The cuts change the
# tokens, so parity needs the same ones.
_PIECE, _RUN = 400_000, 25_000
_SPACES, _OTHERS = re.compile(r"\s*"), re.compile(r"\S*")

# In every pre-tokenizer here a word ends between a letter or digit and the whitespace after it.
_LONG, _WORD_END = 8_000, re.compile(r"(?<=[^\W_])(?=\s)")

GGUF_CONTROL, GGUF_USER_DEFINED = 3, 4
_LLAMA3_SPLIT = [{"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False}]
_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_GGUF_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "llama-bpe": [*_LLAMA3_SPLIT, _BYTES_ONLY],
    "llama3": [*_LLAMA3_SPLIT, _BYTES_ONLY],
    "llama-v3": [*_LLAMA3_SPLIT, _BYTES_ONLY],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2_WORDS],
    "gpt-2": [_GPT2_WORDS],
}


@lru_cache(maxsize=1)
def byte_alphabet() -> tuple[str, ...]:
    """GPT-2's printable character for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    missing = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + i) for i, byte in enumerate(missing)})
    return tuple(table[byte] for byte in range(256))


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_alphabet())}


def _to_bytes(token: str) -> bytes:
    table = _byte_of_character()
    try:
        return bytes(table[c] for c in token)
    except KeyError:
        return token.encode("utf-8", "replace")


def _to_characters(token: bytes) -> str:
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def stops_of(special: Mapping[str, int], more: Iterable[int] = ()) -> frozenset[int]:
    """Ids that end a reply: those of special tokens with such a name, and `more`."""
    return frozenset([*(special[name] for name in _STOP_NAMES if name in special), *more])


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

    def __init__(self, ranks: dict[bytes, int]) -> None:
        import tiktoken

        if sorted(ranks.values()) != list(range(len(ranks))):
            raise FormatError("tokenizer.model: ranks are not 0, 1, 2, ...; expected Meta's Llama 3 tokenizer")
        self.special_tokens = {name: len(ranks) + i for i, name in enumerate(LLAMA3_SPECIAL)}
        self.vocab_size = len(ranks) + len(LLAMA3_SPECIAL)
        self.bos_id: int | None = self.special_tokens["<|begin_of_text|>"]
        self.stop_ids = stops_of(self.special_tokens)
        self.ranks = ranks
        try:
            self._encoding = tiktoken.Encoding(
                "llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens
            )
        except BaseException as error:  # a Rust panic on an incomplete byte alphabet is not an Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            raise FormatError(f"tokenizer.model: tiktoken refuses its ranks ({first_line(error)})") from error

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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text on tiktoken's threads."""
        pieces = [_cut_runs(text) for text in texts]
        encoded = iter(self._encoding.encode_ordinary_batch([piece for group in pieces for piece in group]))
        return [[token for _ in group for token in next(encoded)] for group in pieces]

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
        spec = _tokenizer_spec(
            {_to_characters(token): rank for token, rank in self.ranks.items()},
            [[_to_characters(a), _to_characters(b)] for *_, a, b in merges],
            _GGUF_PRE_TOKENIZERS["llama3"],
            self.special_tokens,
            ignore_merges=True,
        )
        return json.dumps(spec, ensure_ascii=False)


class HFTokenizer:
    """A byte-level BPE in the `tokenizer.json` format, run by the `tokenizers` library."""

    def __init__(self, spec: dict[str, Any], *, bos: str | int | None = None, stops: Iterable[int] = ()) -> None:
        import tokenizers

        model = spec.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            kind = model.get("type") if isinstance(model, dict) else None
            raise FormatError(f"tokenizer.json: model type {kind!r}; expected a byte-level BPE")
        if "ByteLevel" not in json.dumps(spec.get("pre_tokenizer")) or model.get("byte_fallback"):
            raise FormatError("tokenizer.json: not a byte-level BPE (SentencePiece style); herd runs byte-level ones")
        added = [token for token in spec.get("added_tokens") or [] if isinstance(token, dict)]
        self.special_tokens: dict[str, int] = {t["content"]: t["id"] for t in added if t.get("special")}
        self._spec = spec
        # Special tokens and the post-processor that writes them are taken out: plain text cannot become one.
        vocab = {name: i for name, i in model["vocab"].items() if name not in self.special_tokens}
        vocab |= {t["content"]: t["id"] for t in added if not t.get("special")}
        plain = {
            **spec,
            "added_tokens": [t for t in added if not t.get("special")],
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
        self.vocab_size = max([*self._names, *self._added], default=-1) + 1
        self.bos_id: int | None = bos if isinstance(bos, int) else self.special_tokens.get(bos or "<|begin_of_text|>")
        self.stop_ids = stops_of(self.special_tokens, stops)

    @classmethod
    def from_file(cls, path: Path, *, bos: str | None = None, stops: Iterable[int] = ()) -> "HFTokenizer":
        """Read a `tokenizer.json`; `bos` is the name of the token a prompt starts with."""
        try:
            spec = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: not valid JSON ({first_line(error)})") from error
        if not isinstance(spec, dict):
            raise FormatError(f"{path}: expected a JSON object")
        try:
            return cls(spec, bos=bos, stops=stops)
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{path}: damaged: {first_line(error)}") from error

    @classmethod
    def from_gguf(
        cls, *, pre: str, tokens: list[str], types: list[int], merges: list[str], bos: int | None, stops: Iterable[int]
    ) -> "HFTokenizer":
        """Build from a GGUF file's vocabulary, which `GGUFTokenizer` has checked."""
        kinds = dict(zip(tokens, types, strict=True))
        ids = {token: i for i, token in enumerate(tokens)}
        special = {name: i for name, i in ids.items() if kinds[name] == GGUF_CONTROL}
        user_defined = {name: i for name, i in ids.items() if kinds[name] == GGUF_USER_DEFINED}
        spec = _tokenizer_spec(
            ids,  # with the special ones: the library gives ids of its own to added tokens that are not in the vocabulary
            [merge.split(" ", 1) for merge in merges],
            _GGUF_PRE_TOKENIZERS[pre],
            special,
            ignore_merges=pre != "smollm" and pre != "gpt-2",
            user_defined=user_defined,
        )
        return cls(spec, bos=bos, stops=stops)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; a long one is cut where no token can cross, and encoded on several threads."""
        parts = cut_long(text)
        if len(parts) > 1:
            return [token for part in self.encode_batch(parts) for token in part]
        ids: list[int] = self._encoding.encode(well_formed(text).decode(), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text on the library's threads."""
        encoded = self._encoding.encode_batch_fast([well_formed(t).decode() for t in texts], add_special_tokens=False)
        return [one.ids for one in encoded]

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for."""
        added = self._added.get(token)
        return _to_bytes(self._names.get(token, "")) if added is None else added

    def to_json(self) -> str:
        """The tokenizer as it was read or built."""
        return json.dumps(self._spec, ensure_ascii=False)

    def tiktoken_ranks(self) -> dict[bytes, int] | None:
        """Meta's ranks when this is Llama 3's tokenizer (its splitting, its specials after the ranks), else None."""
        specials = sorted(self.special_tokens.values())
        vocab = self._spec["model"]["vocab"]
        text_tokens = {_to_bytes(name): i for name, i in vocab.items() if name not in self.special_tokens}
        is_llama3 = (
            "<|begin_of_text|>" in self.special_tokens
            and specials == list(range(len(text_tokens), len(text_tokens) + len(LLAMA3_SPECIAL)))
            and sorted(text_tokens.values()) == list(range(len(text_tokens)))
            and _recognize(self._spec) == "llama-bpe"
        )
        return dict(sorted(text_tokens.items(), key=lambda item: item[1])) if is_llama3 else None

    @cached_property
    def gguf_vocabulary(self) -> tuple[str, list[str], list[int], list[str]]:
        """Pre-tokenizer name, tokens, token types and merges as a GGUF file holds them."""
        pre = _recognize(self._spec)
        names = {i: name for name, i in self._spec["model"]["vocab"].items()}
        types = dict.fromkeys(names, 1)
        for token in self._spec.get("added_tokens") or []:
            names[token["id"]] = token["content"]
            types[token["id"]] = GGUF_CONTROL if token.get("special") else GGUF_USER_DEFINED
        ids = range(self.vocab_size)
        merges = [m if isinstance(m, str) else " ".join(m) for m in self._spec["model"]["merges"]]
        return pre, [names.get(i, f"[PAD{i}]") for i in ids], [types.get(i, 5) for i in ids], merges


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


def _recognize(spec: dict[str, Any]) -> str:
    """The GGUF name of a `tokenizer.json` pre-tokenizer; raises FormatError when it has none that herd knows."""
    text = json.dumps(spec.get("pre_tokenizer"))
    if json.dumps(LLAMA3_PATTERN)[1:-1] in text or "\\\\p{N}{1,3}" in text:
        return "llama-bpe"
    if '"Digits"' in text and '"individual_digits": true' in text:
        return "smollm"
    if '"ByteLevel"' in text and '"Split"' not in text:
        return "gpt-2"
    raise FormatError(
        "tokenizer.json: this pre-tokenizer has no GGUF name that herd knows; convert to hf or meta instead"
    )


def _tokenizer_spec(
    vocab: dict[str, int],
    merges: list[list[str]],
    pre_tokenizers: list[dict[str, Any]],
    special: Mapping[str, int],
    *,
    ignore_merges: bool,
    user_defined: Mapping[str, int] | None = None,
) -> dict[str, Any]:
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
