"""What a step is: a function on a row that asks a model and gives rows.

A step is a generator. It yields an `Ask`, is sent the replies to it, and returns a list of what came of its row: `Made` rows,
and `Lost` ones with the rule that they broke. Any number of rows is under way at a time, so a step may ask, run what came back, and
ask again. It sees whole replies only: what was cut off is taken out before, and a row without any whole reply is lost.
"""

import string
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd.config import read
from herd.errors import ConfigError
from herd.text.messages import Message

Row = dict[str, Any]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the model. `schema` holds the reply to a JSON schema, `tools` lets it call those of the recipe, or has it begin with a call; `n` replies share
    what is computed for their prompt. `max_tokens` None is up to the context, for replies that their schema bounds.
    """

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    tools: Literal["", "auto", "required"] = ""
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 1.0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply's `text`; its `value` where a schema was asked for; with tools the `messages` that it and the tools said.

    `problem` says why there is none, by the rule "cut_off", "refused" (by the model's side) or "schema" (which the reply broke).
    """

    text: str = ""
    value: Any = None
    messages: tuple[Message, ...] = ()
    problem: str = ""
    rule: str = "refused"
    tokens: int = 0


class Made(msgspec.Struct, frozen=True):
    """A row that came of one. `written` is what the model wrote in it: duplicates are looked for there, not in what it was given."""

    row: Row
    written: str


class Lost(msgspec.Struct, frozen=True):
    """Why nothing, or one thing less, came of a row: a rule's name, the value that broke it, the text's beginning."""

    rule: str
    value: Any = ""
    sample: str = ""


Asking = Generator[Ask, list[Reply], list[Made | Lost]]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt of a file of prompts: `$name` in `system` and `user` stands for a row's value."""

    user: str
    system: str = ""
    schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float = 0.7

    def ask(self, values: Mapping[str, Any], *, n: int = 1, schema: dict[str, Any] | None = None) -> Ask:
        """The question with a row's values in it; ConfigError for a name that the row has not."""
        messages = [Message("system", _filled(self.system, values))] if self.system else []
        messages.append(Message("user", _filled(self.user, values)))
        return Ask(
            messages=tuple(messages), schema=schema or self.schema, n=n, max_tokens=self.max_tokens,
            temperature=self.temperature,
        )  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """The prompts of a step by name, and what the file says."""

    text: str
    named: Mapping[str, Prompt] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Prompt:
        return self.named[name]


def read_prompts(step: str, path: Path | None = None) -> Prompts:
    """A step's own prompts, or those of a file that has the same names and asks for the same properties; ConfigError naming what it lacks."""
    own = _own(step)
    if path is None:
        return own
    found = read(dict[str, Prompt], path)
    for name, prompt in own.named.items():
        if name not in found:
            raise ConfigError(f"{path}: has no [{name}], which the step {step} asks with")
        lacks = _properties(prompt.schema) - _properties(found[name].schema)
        if lacks:
            raise ConfigError(f"{path}: the schema of [{name}] lacks the properties {', '.join(sorted(lacks))}")
    return Prompts(path.read_text("utf-8"), found)


def _properties(schema: dict[str, Any] | None) -> set[str]:
    properties = (schema or {}).get("properties", {})
    return set(properties) & set((schema or {}).get("required", ())) if isinstance(properties, dict) else set()


@cache
def _own(step: str) -> Prompts:
    place = resources.files("herd.synth") / "prompts" / f"{step}.toml"
    with resources.as_file(place) as path:
        return Prompts(path.read_text("utf-8"), read(dict[str, Prompt], path))


def _filled(text: str, values: Mapping[str, Any]) -> str:
    try:
        return string.Template(text).substitute(values)
    except KeyError as error:
        raise ConfigError(
            f"a prompt names ${error.args[0]}, which the row has not; it has {', '.join(values)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"a prompt has a $ that names nothing; write $$ for the sign itself ({error})") from error


def strings(value: Any) -> Iterator[str]:
    """All text in a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings(one)


def dialog(*turns: tuple[str, str]) -> list[dict[str, str]]:
    """Messages as `herd train` reads them."""
    return [{"role": role, "content": text} for role, text in turns]
