"""Calls as Python writes them, `[f(a=1), g(b="x")]`, read without running anything."""

import ast
import json
import re
import warnings
from typing import Any

from herd.text.call_spellings import PYTHON_NAME
from herd.text.messages import ToolCall

_MAX_TEXT = 100_000
_NAME = re.compile(PYTHON_NAME)


class PythonEnd:
    """Finds where a bracketed Python expression ends, a character at a time."""

    def __init__(self) -> None:
        self.depth = 0
        self.quote = ""
        self._escaped = False

    def push(self, character: str) -> bool:
        """Whether `character` is the last of the expression."""
        if self.quote:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == self.quote:
                self.quote = ""
        elif character in "\"'":
            self.quote = character
        elif character in "([{":
            self.depth += 1
        elif character in ")]}":
            self.depth -= 1
            return self.depth <= 0
        return False


def pythonic_calls(text: str) -> list[ToolCall]:
    """The calls of a list of calls with named values; none unless all of it is that."""
    if len(text) > _MAX_TEXT:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            body = ast.parse(text, mode="eval").body
        if not isinstance(body, ast.List):
            return []
        lines = text.encode().splitlines(keepends=True)
        return [_call(lines, node) for node in body.elts]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return []


def _source(lines: list[bytes], node: ast.expr) -> str:
    """What a node was read from; `ast.get_source_segment` would read the whole text for each."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    if first == last:
        return lines[first][node.col_offset : node.end_col_offset].decode()
    parts = [lines[first][node.col_offset :], *lines[first + 1 : last], lines[last][: node.end_col_offset]]
    return b"".join(parts).decode()


def _call(lines: list[bytes], node: ast.expr) -> ToolCall:
    """ValueError when a node is no call of a named function with named values."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with named values")
    name = _source(lines, node.func)
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        value = _value(lines, keyword.value)
        if keyword.arg is not None:
            value = {keyword.arg: value}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value) or value.keys() & arguments:
            raise ValueError("names of values are given twice or are no names")
        arguments |= value
    if not _NAME.fullmatch(name):
        raise ValueError("not a function's name")
    return ToolCall(name, arguments)


def _value(lines: list[bytes], node: ast.expr) -> Any:
    """A literal: JSON's reading of it where it is JSON, as grammars write it, else Python's."""
    try:
        value = json.loads(_source(lines, node))
    except ValueError:
        value = ast.literal_eval(node)
    json.dumps(value, allow_nan=False)  # TypeError for sets, bytes and complex numbers, ValueError for infinities
    return value
