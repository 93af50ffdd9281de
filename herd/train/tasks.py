"""Prompts that a model learns from by its own answers, read from lines of JSON and drawn in an order that a seed decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from herd.errors import FormatError, HerdError
from herd.text.chat_format import chat_format
from herd.text.documents import json_lines
from herd.text.tokenizer import Tokenizer
from herd.train.packing import order
from herd.train.recipe import Source
from herd.train.rewards import Task
from herd.train.samples import prompt_messages

EXPECTED = 'expected {"prompt": "...", ...} with what the rewards read, as in "answer"'


@dataclass(frozen=True)
class Tasks:
    """The prompts of one source. A prompt longer than the room was `dropped`."""

    name: str
    weight: float
    tasks: tuple[Task, ...]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(task.tokens) for task in self.tasks)


def read_tasks(source: Source, path: Path, tokenizer: Tokenizer, template: str | None, room: int) -> Tasks:
    """The prompts of a source that have at most `room` tokens, the start of the answer's turn included."""
    chat = chat_format(tokenizer, template)
    found, dropped = [], 0
    for number, line in json_lines(path):
        where = f"{path}:{number}"
        try:
            messages = tuple(prompt_messages(line["prompt"]))
            tokens = tuple(chat.encode(messages).tokens)
        except (HerdError, msgspec.ValidationError, KeyError, TypeError) as error:
            what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{where}: {what}; {EXPECTED}") from error
        if len(tokens) > room:
            if source.long == "cut":
                raise FormatError(
                    f'{where}: a prompt of {len(tokens)} tokens cannot be cut to {room}; set long = "drop"'
                )
            dropped += 1
            continue
        found.append(Task(tokens, messages, line, where))
    if not found:
        raise FormatError(f"{path}: holds no prompt of at most {room} tokens; {EXPECTED}")
    return Tasks(source.name or path.stem, source.weight, tuple(found), dropped)


class Drawer:
    """An endless stream of tasks from weighted sources: each epoch of a source in an order of its own."""

    def __init__(self, sources: Sequence[Tasks], seed: int) -> None:
        self.sources, self._seed = sources, seed
        self._drawn = [0] * len(sources)

    def draw(self) -> tuple[int, int]:
        """The next task as (source, number), of the source that is furthest behind its weight."""
        i = min(range(len(self.sources)), key=lambda k: (self._drawn[k] / self.sources[k].weight, k))
        epoch, place = divmod(self._drawn[i], len(self.sources[i]))
        self._drawn[i] += 1
        return i, int(order(self._seed, i, epoch, len(self.sources[i]))[place])

    @property
    def count(self) -> int:
        """Tasks drawn so far."""
        return sum(self._drawn)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on from here."""
        return {"drawn": list(self._drawn)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._drawn = list(state["drawn"])
