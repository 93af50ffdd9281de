"""Calls as JSON objects, alone or in an array, and where a JSON value ends in text that comes in pieces."""

import json
import re
from typing import Any

from herd.text.call_spellings import AHEAD, FLAT, NAME, OUTER
from herd.text.messages import ToolCall

KEYS = {"type", "name", "function", "parameters", "arguments", "id"}
_SPACE = re.compile(r"[ \t\n\r]*")
_FLAT, _NESTED, _AHEAD = FLAT.named(), FLAT.named(before=OUTER), re.compile(AHEAD.begin)
_NAME = re.compile(NAME)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant, strict=False)


def json_value(text: str) -> Any:
    """The JSON value of `text`, or None for anything that is not one."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _call(text: str, known: frozenset[str] | None) -> ToolCall | None:
    """The call that a JSON object is, if it is one: it begins as calls do, and what else it holds fits.

    Arguments that are null, empty or missing are none; but where anything may be called an object with a name alone is data.
    """
    begun, value = _FLAT.match(text), json_value(text)
    if not isinstance(value, dict) or not set(value) <= KEYS:
        return None
    if begun is None and isinstance(value.get("function"), dict):
        begun, value = _NESTED.match(text), {"type": "function", **value["function"]}
    given = [value[key] for key in ("parameters", "arguments") if key in value]
    if begun is None or not set(value) <= KEYS or len(given) > 1:
        return None
    if not given and known is None and "type" not in value:
        return None
    arguments = given[0] if given else {}
    if isinstance(arguments, str) and arguments:
        arguments = json_value(arguments)
    elif arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict) or (known is not None and begun["name"] not in known):
        return None
    return ToolCall(begun["name"], arguments)


def _objects(text: str) -> list[str]:
    """The objects of a JSON array, each as it is written; `text` itself when it is none."""
    if not text.startswith("["):
        return [text]
    found, at = [], 1
    while at < len(text):  # `text` is JSON: a value, then a comma or the end
        begin = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        _, end = _DECODER.raw_decode(text, begin)
        found.append(text[begin:end])
        at = _SPACE.match(text, end).end() + 1  # type: ignore[union-attr]
    return found


def json_calls(text: str, known: frozenset[str] | None) -> list[ToolCall]:
    """The calls of one complete JSON object or array; none unless all of it is calls."""
    if not json_value(text):  # no JSON, or an empty array
        return []
    found = [_call(item, known) for item in _objects(text)]
    return [call for call in found if call] if all(found) else []


def tagged_calls(text: str, known: frozenset[str] | None) -> list[ToolCall]:
    """The same of what begins with <tool_call>, where the arguments may also come before the name."""
    inner = text.removeprefix("<tool_call>").lstrip()
    if not _AHEAD.match(text):
        return json_calls(inner, known)
    value = json_value(inner)
    if not isinstance(value, dict) or list(value)[1:] != ["name"]:
        return []
    arguments, name = value.values()
    if not isinstance(arguments, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        return []
    return [ToolCall(name, arguments)] if known is None or name in known else []


class JsonEnd:
    """Finds where a JSON object or array ends, a character at a time."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = self.escaped = False

    def push(self, character: str) -> bool:
        """Whether `character` is the last of the value."""
        if self.in_string:
            if self.escaped:
                self.escaped = False
            elif character == "\\":
                self.escaped = True
            elif character == '"':
                self.in_string = False
        elif character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            return self.depth <= 0
        return False
