"""Metadata `tokenizer.ggml.*` of GGUF files <-> a tokenizer and what is declared of it. Keys: ggml's `docs/gguf.md`."""

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from herd.errors import FormatError, NoTokenizerError
from herd.text._bpe import Strings
from herd.text.gguf import GGUFTokenizer
from herd.text.pre_tokenizers import pre_tokenizer
from herd.text.tokenizer import Declared, Tokenizer
from herd.text.vocabulary import GGUF_CONTROL, LLAMA3_SPECIAL

_LLAMA3_RANKS, _LLAMA3_MERGES = 128_000, 280_147
_STOPS_KEY = "herd.stop_token_ids"
_DECLARED = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "pad": "padding", "unk": "unknown"}


def tokenizer_from_gguf(metadata: dict[str, Any], where: str) -> GGUFTokenizer:
    """The tokenizer that a file's metadata describe; NoTokenizerError when there is none."""
    prefix = "tokenizer.ggml."
    model = metadata.get(prefix + "model")
    if model in (None, "none", "no_vocab"):
        raise NoTokenizerError(f"{where}: no tokenizer in the file")
    if model != "gpt2":
        raise FormatError(f"{where}: tokenizer {model!r}; herd reads byte-level BPE vocabularies ('gpt2')")
    lists: dict[str, Any] = {}
    if prefix + "token_type" not in metadata and isinstance(metadata.get(prefix + "tokens"), Strings):
        metadata = {
            **metadata,
            prefix + "token_type": _types(
                list(metadata[prefix + "tokens"]), declared_in(metadata, len(metadata[prefix + "tokens"]))
            ),
        }
    for key, kind, what in (
        ("tokens", Strings, "strings"),
        ("token_type", list, "integers"),
        ("merges", Strings, "strings"),
    ):
        found = metadata.get(prefix + key)
        if not isinstance(found, kind) or (found and what == "integers" and not isinstance(found[0], int)):
            raise FormatError(f"{where}: {prefix}{key} is missing or damaged; expected a list of {what}")
        lists[key] = found
    pre = _pre(metadata, lists, where)
    _check_ends(metadata, len(lists["tokens"]), where)
    return GGUFTokenizer(
        pre=pre,
        tokens=lists["tokens"],
        types=lists["token_type"],
        merges=lists["merges"],
        declared=declared_in(metadata, len(lists["tokens"]), pre_tokenizer(pre).adds_bos),
    )


def _check_ends(metadata: dict[str, Any], count: int, where: str) -> None:
    """FormatError for a start or an end that is no token: replies would not end. -1, also as 32 bits, means none."""
    for kind in ("bos", "eos", "eot", "eom"):
        key = f"tokenizer.ggml.{_DECLARED[kind]}_token_id"
        value = metadata.get(key, -1)
        if value not in (-1, 2**32 - 1) and not (isinstance(value, int) and 0 <= value < count):
            raise FormatError(f"{where}: {key} is {value!r}; expected one of the {count:,} tokens, or -1 for none")


def _types(tokens: list[str], declared: Declared) -> list[int]:
    """Types of tokens in a file without them: special are those that it declares for a purpose, and <|names|> like theirs."""
    special = {*declared.stops, declared.bos, declared.pad, declared.unk}
    return [
        GGUF_CONTROL if number in special or re.fullmatch(r"<\|[\w.\-]+\|>", token) else 1
        for number, token in enumerate(tokens)
    ]


def _pre(metadata: dict[str, Any], lists: dict[str, Any], where: str) -> str:
    """The pre-tokenizer's name. Old files have none: Llama 3's vocabulary is known by its size and its merges."""
    pre = metadata.get("tokenizer.ggml.pre")
    if pre is not None:
        return str(pre)
    tokens, merges = lists["tokens"], lists["merges"]
    if len(tokens) > _LLAMA3_RANKS and len(merges) == _LLAMA3_MERGES and tokens[_LLAMA3_RANKS] == LLAMA3_SPECIAL[0]:
        return "llama-bpe"
    warnings.warn(
        f"{where}: has no tokenizer.ggml.pre; words are cut as GPT-2's are, which is wrong for most models. Convert it anew",
        stacklevel=2,
    )
    return "gpt-2"


def declared_in(metadata: dict[str, Any], count: int, adds_bos: bool = False) -> Declared:
    """What a file says of its `count` tokens. More stops than eos, eot and eom are in a key of our own, which holds only
    while it agrees with them: other programs change those alone.
    """
    prefix = "tokenizer.ggml."
    values = {kind: metadata.get(f"{prefix}{key}_token_id") for kind, key in _DECLARED.items()}
    found = {kind: value if isinstance(value, int) and 0 <= value < count else None for kind, value in values.items()}
    stops = _stops(found)
    more = metadata.get(_STOPS_KEY)
    if (
        isinstance(more, list)
        and all(isinstance(stop, int) and 0 <= stop < count for stop in more)
        and set(stops) <= set(more)
    ):
        stops = tuple(more)
    return Declared(
        **found, stops=stops, add_bos=bool(metadata.get(prefix + "add_bos_token", adds_bos)),
        add_eos=bool(metadata.get(prefix + "add_eos_token", False)),
    )  # fmt: skip


def _stops(found: Mapping[str, int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(stop for kind in ("eos", "eot", "eom") if (stop := found[kind]) is not None))


def tokenizer_to_gguf(tokenizer: Tokenizer, vocab: int) -> dict[str, Any]:
    """The metadata of a tokenizer for a model with `vocab` rows in its embedding."""
    from herd.text.meta import TiktokenTokenizer
    from herd.text.tokenizer_json import HFTokenizer

    if isinstance(tokenizer, TiktokenTokenizer):
        tokenizer = HFTokenizer(json.loads(tokenizer.to_json()), tokenizer.declared)
    assert isinstance(tokenizer, HFTokenizer | GGUFTokenizer)
    pre, tokens, types, merges = tokenizer.gguf_vocabulary
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab)]
    types += [5] * (vocab - len(types))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        **declared_to_gguf(tokenizer.declared, vocab),
    }


def declared_to_gguf(declared: Declared, vocab: int) -> dict[str, Any]:
    """The metadata of what is declared, without a padding or unknown token outside the vocabulary."""
    found = {kind: getattr(declared, kind) for kind in _DECLARED}
    values: dict[str, Any] = {
        "tokenizer.ggml.add_bos_token": declared.add_bos,
        "tokenizer.ggml.add_eos_token": declared.add_eos,
        **{
            f"tokenizer.ggml.{_DECLARED[kind]}_token_id": token
            for kind, token in found.items()
            if token is not None and token < vocab
        },
    }
    if declared.stops != _stops(found):
        values[_STOPS_KEY] = list(declared.stops)
    return values
