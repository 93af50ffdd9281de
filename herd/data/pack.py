"""A corpus in tokens, as the trainer reads it: shards that are mapped into memory, and what their ids mean.

    FOLDER/pack.json        what the ids mean, what each document begins and ends with, the shards' documents and tokens
    FOLDER/tokenizer.json   the tokenizer (and its other files), for a model that begins anew
    FOLDER/NNNNN.tokens     the documents' ids one after another: little-endian uint16, uint32 for more than 65,536 tokens
    FOLDER/NNNNN.offsets    where each document begins in them, and the last one's end: little-endian int64

A document lies in one shard. The folder appears whole or not at all; its bytes depend on texts and tokenizer alone.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from herd.atomic import atomic_folder
from herd.errors import ConfigError, FormatError
from herd.progress import Progress, silent
from herd.text.tokenizer import Tokenizer
from herd.weights.sidecars import write_tokenizer

VERSION = 1
INDEX = "pack.json"
AT_ONCE = 8 << 20
"""Characters that are tokenized together."""
SHARD = 1 << 28
"""Tokens after which a shard ends."""


class Shard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one shard holds."""

    documents: int
    tokens: int


class Index(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`vocabulary` is the digest of what the ids mean, `begin` and `end` the tokens around each document."""

    version: int = VERSION
    vocab: int
    vocabulary: str
    begin: int | None
    end: int | None
    bytes: int  # of the texts, in UTF-8
    shards: tuple[Shard, ...]

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of all shards, those around the documents among them."""
        return sum(shard.tokens for shard in self.shards)


def vocabulary(tokenizer: Tokenizer) -> str:
    """SHA-256 of the bytes that each id stands for and of the special tokens: equal where ids mean the same."""
    digest = hashlib.sha256()
    for token in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(token)
        digest.update(len(data).to_bytes(4, "little") + data)
    digest.update(repr(sorted(tokenizer.special_tokens.items())).encode())
    return digest.hexdigest()


def encode(texts: Iterable[str], tokenizer: Tokenizer) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Ids of documents one after another [total], each between its begin and end as declared, and where each begins, with the end."""
    ids, offsets = tokenizer.encode_batch(texts)
    first, end = tokenizer.declared.first, tokenizer.declared.eos
    counts = np.diff(offsets) + (first is not None) + (end is not None)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    out = np.empty(int(starts[-1]), np.uint32)
    text = np.ones(len(out), bool)
    if first is not None:
        out[starts[:-1]], text[starts[:-1]] = first, False
    if end is not None:
        out[starts[1:] - 1], text[starts[1:] - 1] = end, False
    out[text] = ids
    return out, starts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _number(vocab: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab <= 1 << 16 else np.dtype("<u4")


def pack(
    texts: Iterable[str], tokenizer: Tokenizer, out: Path, *, shard: int = SHARD, show: Progress = silent
) -> Index:
    """Write the packed tokens of texts into a new folder; what its index says. ConfigError where the folder exists or no text is given."""
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another folder")
    number = _number(tokenizer.vocab_size)
    shards: list[Shard] = []
    size = 0
    with atomic_folder(out) as folder:
        offsets: list[NDArray[np.int64]] = []
        tokens = 0
        file = None
        for batch in _batches(texts):
            if file is None:
                file = (folder / f"{len(shards):05d}.tokens").open("wb")
                offsets, tokens = [np.zeros(1, np.int64)], 0
            ids, starts = encode(batch, tokenizer)
            file.write(ids.astype(number).tobytes())
            offsets.append(starts[1:] + tokens)
            tokens += len(ids)
            size += sum(len(text.encode("utf-8", "replace")) for text in batch)
            show("tokens", sum(one.tokens for one in shards) + tokens, 0)
            if tokens >= shard:
                shards.append(_end(folder, len(shards), offsets, tokens))
                file.close()
                file = None
        if file is not None:
            file.close()
            shards.append(_end(folder, len(shards), offsets, tokens))
        if not shards:
            raise ConfigError(f"{out}: there is no text to pack")
        index = Index(
            vocab=tokenizer.vocab_size, vocabulary=vocabulary(tokenizer), begin=tokenizer.declared.first,
            end=tokenizer.declared.eos, bytes=size, shards=tuple(shards),
        )  # fmt: skip
        write_tokenizer(folder, tokenizer, 131_072)
        (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index)) + b"\n")
    return index


def _end(folder: Path, number: int, offsets: list[NDArray[np.int64]], tokens: int) -> Shard:
    places = np.concatenate(offsets)
    (folder / f"{number:05d}.offsets").write_bytes(places.astype("<i8").tobytes())
    return Shard(documents=len(places) - 1, tokens=tokens)


class Joined:
    """The ids of several shards as one sequence, read from their files when asked for; a slice lies within one shard."""

    def __init__(self, parts: Sequence[NDArray[np.uint32]]) -> None:
        self._parts = list(parts)
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, span: slice) -> NDArray[np.uint32]:
        part = int(np.searchsorted(self._starts, span.start, "right")) - 1
        begin = int(self._starts[part])
        return self._parts[part][span.start - begin : span.stop - begin]


def read_index(folder: Path) -> Index:
    """What a folder holds; FormatError where it is no packed corpus, or one of another version."""
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=Index)
    except (OSError, msgspec.MsgspecError) as error:
        raise FormatError(f"{folder / INDEX}: cannot be read ({error}); expected a folder of herd data pack") from error
    if index.version != VERSION:
        raise FormatError(f"{folder}: packed as version {index.version}; this herd reads {VERSION}: pack it anew")
    return index


def read(folder: Path, tokenizer: Tokenizer) -> tuple[Index, Joined, NDArray[np.int64]]:
    """What a folder holds, its ids, and where each document begins in them, with the end [documents + 1].

    FormatError where something is missing, cut or damaged; ConfigError where the ids mean something else to this tokenizer.
    """
    index = read_index(folder)
    here = (vocabulary(tokenizer), tokenizer.declared.first, tokenizer.declared.eos)
    if here != (index.vocabulary, index.begin, index.end):
        raise ConfigError(
            f"{folder}: was packed with another tokenizer than the model's; name the same in both, or pack it anew "
            f"(begin and end {index.begin} and {index.end}, the model's {here[1]} and {here[2]})"
        )
    number = _number(index.vocab)
    parts, places = [], [np.zeros(1, np.int64)]
    before = 0
    for i, shard in enumerate(index.shards):
        ids = _mapped(folder / f"{i:05d}.tokens", number, shard.tokens)
        offsets = _mapped(folder / f"{i:05d}.offsets", np.dtype("<i8"), shard.documents + 1)
        if offsets[0] != 0 or offsets[-1] != shard.tokens or (np.diff(offsets) < 0).any():
            raise FormatError(f"{folder / f'{i:05d}.offsets'}: is damaged: its places do not rise to {shard.tokens:,}")
        parts.append(ids)
        places.append(offsets[1:] + before)
        before += shard.tokens
    return index, Joined(parts), np.concatenate(places)


def _mapped(path: Path, number: "np.dtype[Any]", count: int) -> NDArray[Any]:
    try:
        size = path.stat().st_size
        if size == count * number.itemsize and count:
            return np.memmap(path, number, "r", shape=(count,))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); a shard is missing: pack it anew") from error
    raise FormatError(f"{path}: is {size:,} bytes; expected {count * number.itemsize:,}: it was cut, pack it anew")
