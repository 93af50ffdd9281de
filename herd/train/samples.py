"""Files -> tokens with a weight in the loss: text, packed tokens, dialogs, pairs of answers, ranked answers.

The mask of a dialog comes from `ChatFormat`, never from searching the text. A sample whose targets are all masked is an
error with its file and line.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from herd.data import pack
from herd.errors import ConfigError, FormatError, HerdError
from herd.text.chat_format import ChatFormat, chat_format
from herd.text.documents import json_lines, read_documents
from herd.text.messages import Message
from herd.text.tokenizer import Tokenizer
from herd.train.recipe import Source


@dataclass(frozen=True)
class Corpus:
    """One source in tokens. Document i is ids[offsets[i]:offsets[i + 1]], sample j the documents groups[j] to groups[j + 1].

    `mask` says which tokens count as targets (None: all). A document of n tokens has n - 1 positions: each predicts the next.
    `names` says where sample j comes from. Samples of text may be cut where a row ends; others stay whole.
    """

    name: str
    weight: float
    ids: NDArray[np.uint32] | pack.Joined
    offsets: NDArray[np.int64]
    mask: NDArray[np.bool_] | None
    groups: NDArray[np.int64]
    names: Callable[[int], str]
    may_be_cut: bool
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.groups) - 1

    def positions(self, sample: int) -> int:
        """How many positions a sample takes in a row."""
        first, last = self.groups[sample], self.groups[sample + 1]
        return int(self.offsets[last] - self.offsets[first] - (last - first))

    @property
    def tokens(self) -> int:
        """Positions of all samples."""
        return len(self.ids) - (len(self.offsets) - 1)


def read_source(
    source: Source,
    path: Path,
    tokenizer: Tokenizer,
    template: str | None,
    length: int,
    *,
    plain_answers: bool = False,
    whole: bool = False,
) -> Corpus:
    """All samples of a source. With `plain_answers` the mask leaves out the tokens that end a turn (as Llama 3's DPO does);
    `whole` adds a token behind each document, so that its last one has a position too (reward models score there).

    Dialogs longer than `length` positions are cut at the end or dropped, as the source says.
    """
    if source.kind in ("text", "tokens"):
        return (_text if source.kind == "text" else _tokens)(source, path, tokenizer)
    encode = _Encoder(chat_format(tokenizer, template), tokenizer.stop_ids if plain_answers else frozenset())
    ids: list[NDArray[np.uint32]] = []
    masks: list[NDArray[np.bool_]] = []
    groups, lines = [0], []
    dropped = 0
    for line, value in json_lines(path):
        where = f"{path}:{line}"
        try:
            found = [encode(messages) for messages in _dialogs(source.kind, value)]
        except (HerdError, msgspec.ValidationError, KeyError, TypeError) as error:
            what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{where}: {what}; {_EXPECTED[source.kind]}") from error
        room = length // len(found) + (not whole)
        if max(len(tokens) for tokens, _ in found) > room:
            if source.long == "drop":
                dropped += 1
                continue
            found = [(tokens[:room], mask[:room]) for tokens, mask in found]
        for tokens, mask in found:
            if not mask[1:].any():
                raise FormatError(
                    f"{where}: no token of this sample counts in the loss; it has no answer within {room - 1} tokens"
                )
            ids.append(np.append(tokens, np.uint32(0)) if whole else tokens)
            masks.append(np.append(mask, False) if whole else mask)
        groups.append(len(ids))
        lines.append(line)
    if not ids:
        raise FormatError(f"{path}: holds no sample of at most {length} tokens; {_EXPECTED[source.kind]}")
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
    return Corpus(
        source.name or path.stem, source.weight, np.concatenate(ids), offsets, np.concatenate(masks), np.array(groups),
        lambda sample: f"{path}:{lines[sample]}", may_be_cut=False, dropped=dropped,
    )  # fmt: skip


def plain_texts(kind: str, path: Path) -> Iterator[str]:
    """The texts of a source, for a tokenizer to learn from."""
    if kind == "tokens":
        raise ConfigError(f"{path}: holds tokens, from which no tokenizer can be learned; name theirs: model.tokenizer")
    if kind == "text":
        yield from (text for text, _ in read_documents(path))
        return
    for line, value in json_lines(path):
        try:
            yield from (message.content for dialog in _dialogs(kind, value) for message in dialog)
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise FormatError(f"{path}:{line}: {_EXPECTED[kind]}") from error


def _text(source: Source, path: Path, tokenizer: Tokenizer) -> Corpus:
    """Documents of a text file, of all text files of a folder, or of the `text` of JSON lines; each begins and ends as declared."""
    documents = read_documents(path)
    ids, offsets = pack.encode((text for text, _ in documents), tokenizer)
    return Corpus(
        source.name or path.stem, source.weight, ids, offsets, None, np.arange(len(offsets)),
        lambda sample: documents[sample][1], may_be_cut=True,
    )  # fmt: skip


def _tokens(source: Source, path: Path, tokenizer: Tokenizer) -> Corpus:
    """Documents that `herd data` has packed, read from the disk as they are drawn."""
    _, ids, offsets = pack.read(path, tokenizer)
    return Corpus(
        source.name or path.stem, source.weight, ids, offsets, None, np.arange(len(offsets)),
        lambda sample: f"{path} (document {sample})", may_be_cut=True,
    )  # fmt: skip


_EXPECTED = {
    "messages": 'expected {"messages": [{"role": "user", "content": "..."}, ...]} or {"prompt": ..., "completion": ...}',
    "pairs": 'expected {"prompt": ..., "chosen": "...", "rejected": "..."}',
    "ranked": 'expected {"prompt": ..., "answers": ["best", ..., "worst"]}',
}


def _dialogs(kind: str, value: dict[str, Any]) -> list[list[Message]]:
    """The dialogs of one sample: one, or one an answer with the better first."""
    if kind == "messages" and "messages" in value:
        return [msgspec.convert(value["messages"], list[Message])]
    answers = {"messages": ["completion"], "pairs": ["chosen", "rejected"]}.get(kind)
    texts = [value[key] for key in answers] if answers else value["answers"]
    if not isinstance(texts, list) or (kind == "ranked" and len(texts) < 2):
        raise TypeError("answers is no list of two or more")
    return [[*prompt_messages(value["prompt"]), _answer(text)] for text in texts]


def prompt_messages(value: Any) -> list[Message]:
    """A prompt as messages: a text is what the user says."""
    return [Message("user", value)] if isinstance(value, str) else msgspec.convert(value, list[Message])


def _answer(value: Any) -> Message:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return Message("assistant", value) if isinstance(value, str) else msgspec.convert(value, Message)


class _Encoder:
    def __init__(self, chat: ChatFormat, unmasked: frozenset[int]) -> None:
        self._chat, self._unmasked = chat, np.array(sorted(unmasked), np.uint32)

    def __call__(self, messages: Sequence[Message]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        encoded = self._chat.encode(messages, reply=False)
        tokens = np.array(encoded.tokens, np.uint32)
        mask = np.array(encoded.loss_mask, bool)
        return tokens, mask & ~np.isin(tokens, self._unmasked) if len(self._unmasked) else mask
