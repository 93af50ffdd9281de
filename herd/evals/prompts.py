"""Rows -> what a model is asked: one text with examples before it, or turns of a dialog.

The layout is lm-evaluation-harness's, so that figures are the same: description, examples parted by a separator, the prompt; an
answer follows its delimiter, and spaces at a context's end belong to what is scored.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from herd.errors import ConfigError
from herd.evals.task import Row, Task, fill
from herd.text.messages import Message, Tool


@dataclass(frozen=True)
class Item:
    """One question. `contexts` and `continuations` pair up to what is scored; a generation has one context, or `messages`."""

    task: Task
    id: str
    row: Row
    contexts: tuple[str, ...] = ()
    continuations: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    gold: Any = None
    stop: tuple[str, ...] = field(default=())

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is scored: each continuation with its context, "" where there is none."""
        count = len(self.continuations)
        contexts = self.contexts * count if len(self.contexts) == 1 else self.contexts or ("",) * count
        return list(zip(contexts, self.continuations, strict=True))


def choices_of(task: Task, row: Row) -> list[str]:
    """The answers to choose from: templates, a column that is a list, or one template with an answer on each line."""
    if isinstance(task.choices, tuple):
        return [fill(task, template, row) for template in task.choices]
    if task.choices in row:
        found = row[task.choices]
        if isinstance(found, dict):  # as ARC on Hugging Face: {"text": [...], "label": [...]}
            found = found["text"]
        return [str(choice) for choice in found]
    return fill(task, task.choices, row).split("\n")


def gold_of(task: Task, row: Row) -> Any:
    """The number of the right choice, or the wanted answer. ConfigError where a row names no choice of its own."""
    gold = fill(task, task.gold, row) if "{{" in task.gold else row.get(task.gold)
    if task.kind != "choice":
        return gold
    choices = choices_of(task, row) if "contexts" not in row else row["contexts"]
    number: Any = gold
    if isinstance(gold, str):
        named = row.get(task.choices) if isinstance(task.choices, str) else None
        labels = named.get("label", []) if isinstance(named, dict) else []
        if gold in labels:
            number = labels.index(gold)
        elif gold in choices:
            number = choices.index(gold)
        else:
            number = int(gold) if gold.isdecimal() else "ABCDEFGHIJ".find(gold[:1].upper())
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(choices):
        raise ConfigError(f"task {task.name}, row {row.get('id')}: {gold!r} names none of {len(choices)} choices")
    return number


def answered(task: Task, row: Row) -> str:
    """A row's answer as it stands in an example."""
    if task.answer:
        return fill(task, task.answer, row)
    gold = gold_of(task, row)
    return choices_of(task, row)[gold] if task.kind == "choice" else str(gold)


def chosen_shots(task: Task, rows: list[Row], row: Row, count: int, seed: int) -> list[Row]:
    """The examples for a row: the first ones, or with a seed above 0 drawn; never the row itself."""
    others = [one for one in rows if one is not row and one.get("id", "") != row.get("id", None)]
    if seed:
        return random.Random(f"{seed} {task.name} {row.get('id')}").sample(others, min(count, len(others)))
    return others[:count]


def item(task: Task, row: Row, shots: list[Row], *, chat: bool, system: str = "") -> Item:
    """The question a row makes. `chat` lays examples as turns of a dialog, otherwise all is one text."""
    if task.kind == "rolling":
        return Item(task, row["id"], row, continuations=(fill(task, task.prompt or "{{ page }}", row),))
    if task.kind == "calls":
        return _call_item(task, row, system)
    if task.kind == "choice" and "contexts" in row:  # the contexts differ, and what follows is the same
        head = "".join(_example(task, shot) for shot in shots)
        contexts = tuple(head + str(context) for context in row["contexts"])
        return Item(
            task, row["id"], row, contexts, (task.delimiter + row["ending"],) * len(contexts), gold=gold_of(task, row)
        )
    stop = (*task.stop, *(row["stop"] if isinstance(row.get("stop"), list) else ()))
    if task.kind == "judge" or (chat and task.kind in ("generate", "code")):
        return Item(
            task, row["id"], row, messages=_dialog(task, row, shots, system), gold=gold_of(task, row), stop=stop
        )
    description = fill(task, task.description, row) if task.description else ""
    context = description + "".join(_example(task, shot) for shot in shots) + fill(task, task.prompt, row)
    if task.kind == "choice":
        continuations = tuple(task.delimiter + choice for choice in choices_of(task, row))
        return Item(task, row["id"], row, (context,), continuations, gold=gold_of(task, row))
    return Item(task, row["id"], row, (context,), gold=gold_of(task, row), stop=stop)


def _example(task: Task, shot: Row) -> str:
    if "contexts" in shot:
        gold = gold_of(task, shot)
        return f"{shot['contexts'][gold]}{task.delimiter}{shot['ending']}{task.separator}"
    return f"{fill(task, task.prompt, shot)}{task.delimiter}{answered(task, shot)}{task.separator}"


def _dialog(task: Task, row: Row, shots: list[Row], system: str) -> tuple[Message, ...]:
    spoken = "\n\n".join(
        part for part in (system, fill(task, task.description, row).strip() if task.description else "") if part
    )
    messages = [Message("system", spoken)] if spoken else []
    for shot in shots:
        messages += [Message("user", fill(task, task.prompt, shot)), Message("assistant", answered(task, shot))]
    return (*messages, Message("user", fill(task, task.prompt, row)))


_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "any": None,
    "String": "string",
    "ArrayList": "array",
    "HashMap": "object",
}


def _schema(value: Any) -> Any:
    """BFCL's own names of types -> JSON schema's."""
    if isinstance(value, dict):
        found = {key: _schema(item) for key, item in value.items()}
        kind = found.get("type")
        if isinstance(kind, str) and kind in _TYPES:
            found["type"] = _TYPES[kind]
            if found["type"] is None:
                del found["type"]
        return found
    return [_schema(item) for item in value] if isinstance(value, list) else value


def _call_item(task: Task, row: Row, system: str) -> Item:
    tools = tuple(Tool(f["name"], f.get("description", ""), _schema(f.get("parameters", {}))) for f in row["functions"])
    spoken = [Message("system", system)] if system else []
    messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
    return Item(task, row["id"], row, messages=(*spoken, *messages), tools=tools, gold=row.get("answer"))
