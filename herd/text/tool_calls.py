"""A model's reply -> text and tool calls, whole or in any pieces.

Read are the spellings of `call_spellings.py`: JSON objects (`{"name": ..., "parameters": {...}}`), several of them separated
by `;`, `,` or whitespace or in one JSON array, or in `<tool_call>` tags, `<function=name>{...}</function>`, `[f(a=1)]`; and
Llama's own `brave_search.call(query="...")`, and after <|python_tag|> any of these or Python code. Calls in JSON and
brackets start a line. What is not a call is text, always.

The parser looks at one character after another, so how a reply is cut into pieces cannot change the result.
"""

import re
from collections import deque
from itertools import groupby

from herd.text.call_spellings import NAME, PYTHON_NAME, PYTHONIC
from herd.text.json_calls import KEYS, JsonEnd, json_calls, json_value, tagged_calls
from herd.text.messages import BUILTIN_TOOLS, ToolCall
from herd.text.pythonic import PythonEnd, pythonic_calls

PYTHON_TAG = "<|python_tag|>"
_FUNCTION = "<function="
_CLOSE = "</function>"
_TOOL_CALL, _TOOL_CALL_CLOSE = "<tool_call>", "</tool_call>"
_MARKS = (PYTHON_TAG, _FUNCTION, _TOOL_CALL)
_BUILTIN_STARTS = ("brave_search.call(", "wolfram_alpha.call(")
_BUILTIN = re.compile(r'(brave_search|wolfram_alpha)\.call\(query=("(?:[^"\\]|\\.)*")\)', re.DOTALL)
_LOOKS_LIKE_CALL = re.compile(
    r'\[?\s*\{\s*"(type|name|function|parameters|arguments)"|(brave_search|wolfram_alpha)\.call\('
)
_NAME, _PYTHON_START = re.compile(NAME), re.compile(rf"\[\s*({PYTHON_NAME}\s*)?")
_PYTHONIC = PYTHONIC.named(PYTHON_NAME)
_MAX_DEPTH = 100
_MAX_CALL = 1_000_000
_BEGINS = (
    1024  # characters of what is held that stand in one string; the rest is joined once, when it is known what it is
)


class ReplyParser:
    """Feeds on a reply's text and yields, as early as is safe, strings of text and `ToolCall`s.

    `known` are the names of what is on offer: with it, JSON that names another one is text. `builtin` are those of them
    that may be called in Llama's own way, whose arguments no schema holds; not given, those that Llama was trained on.
    Special tokens reach the parser as text: <|python_tag|> by its name, the end of the turn not at all.
    """

    def __init__(self, known: frozenset[str] | None = None, builtin: frozenset[str] | None = None) -> None:
        trained = frozenset(BUILTIN_TOOLS)
        self._known = known
        self._builtin = builtin if builtin is not None else trained if known is None else known & trained
        self._input: deque[str] = deque()
        self._read = {
            "line": self._in_line,
            "text": self._in_text,
            "json": self._in_json,
            "pythonic": self._in_pythonic,
            "function": self._in_function,
            "tagged": self._in_tagged,
            "arguments": self._in_arguments,
            "close": self._in_close,
            "builtin": self._in_builtin,
            "python": self._in_python,
        }
        self._held = ""  # read, but not yet known to be text or call: its beginning
        self._rest: list[str] = []  # and what follows
        self._space = ""  # whitespace at the start of a line: dropped when a call follows
        self._mode = "line"
        self._end = JsonEnd()
        self._python_end, self._python_named = PythonEnd(), False
        self._close = _CLOSE  # the tag that may follow a call
        self._fenced = False
        self._after_call = False
        self._line = ""  # the first characters of the line, to see code fences
        self._name = ""
        self.python_tag = False  # whether the reply had <|python_tag|>

    @property
    def begins(self) -> str:
        """The first characters, 1,024 at most, of what has been read and is not yet known to be text or call."""
        return self._held

    @property
    def held(self) -> str:
        """All of that. It takes time in proportion to its length."""
        return self._held + "".join(self._rest)

    def push(self, piece: str) -> list[str | ToolCall]:
        """What `piece` completes."""
        out: list[str | ToolCall] = []
        self._input.extend(piece)
        while self._input:
            self._read[self._mode](self._input.popleft(), out)
        return _join(out)

    def finish(self, *, cut_off: bool = False) -> list[str | ToolCall]:
        """What is left at the end of the reply; `cut_off` when the model did not end it itself."""
        out: list[str | ToolCall] = []
        held = self._take()
        if self._mode == "python":
            self._finish_python(held, cut_off, out)
        elif self._mode != "close":
            if held or not self._after_call:
                out.append(self._space + held)
        elif not self._close.startswith(held.lstrip()):
            out.append(held)
        self._space, self._mode = "", "line"
        return _join(out)

    def _emit(self, text: str, out: list[str | ToolCall]) -> None:
        """Text that is certain, watching for line ends and code fences."""
        out.append(self._space + text)
        self._space = ""
        self._after_call = False
        for character in text:
            if character == "\n":
                self._line = ""
            elif len(self._line) < 3 and (character != " " or self._line):
                self._line += character
                if self._line == "```":
                    self._fenced = not self._fenced

    def _hold(self, character: str) -> None:
        if len(self._held) < _BEGINS:
            self._held += character
        else:
            self._rest.append(character)

    def _take(self) -> str:
        """What is held, which is held no longer."""
        held, self._held, self._rest = self.held, "", []
        return held

    def _too_much(self, depth: int) -> bool:
        return depth > _MAX_DEPTH or len(self._held) + len(self._rest) > _MAX_CALL

    def _replay(self, out: list[str | ToolCall]) -> None:
        """What looked like a call is text after all: its first character is, the rest is read again.

        Only for what can be no beginning a second time, or is short: time must grow with the length alone.
        """
        held, self._mode = self._take(), "text"
        self._emit(held[0], out)
        self._input.extendleft(reversed(held[1:]))

    def _found(self, calls: list[ToolCall], out: list[str | ToolCall]) -> None:
        out.extend(calls)
        self._space = self._held = ""
        self._rest = []
        self._after_call = True
        self._mode = "line"

    def _in_line(self, character: str, out: list[str | ToolCall]) -> None:
        """At the start of a line, where a call in JSON or of a built-in tool may begin."""
        if character.isspace() or (self._after_call and character in ";,"):
            self._space += character
            if len(self._space) > 4096:
                self._emit("", out)
        elif character in "{[" and not self._fenced:
            self._mode, self._held, self._end = "json", "", JsonEnd()
            self._in_json(character, out)
        elif character in "bw" and not self._fenced:
            self._mode = "builtin"
            self._in_builtin(character, out)
        else:
            self._mode = "text"
            self._in_text(character, out)

    def _in_text(self, character: str, out: list[str | ToolCall]) -> None:
        held = self._held + character
        if held == PYTHON_TAG:
            self._held, self._mode, self.python_tag = "", "python", True
        elif held == _FUNCTION:
            self._held, self._mode = held, "function"
        elif held == _TOOL_CALL:
            self._held, self._mode, self._end = held, "tagged", JsonEnd()
        elif any(mark.startswith(held) for mark in _MARKS):
            self._held = held
        elif self._held:
            self._held = ""
            self._emit(held[:-1], out)
            self._input.appendleft(character)
        else:
            self._emit(character, out)
            if character == "\n":
                self._mode = "line"

    def _in_json(self, character: str, out: list[str | ToolCall]) -> None:
        if len(self._held) < 256 and self._held.rstrip() == "[" and (character.isalpha() or character == "_"):
            held, self._mode = self._take(), "pythonic"
            self._python_end, self._python_named = PythonEnd(), False
            for each in held + character:
                self._in_pythonic(each, out)
            return
        self._hold(character)
        if self._end.push(character):
            calls = json_calls(self.held, self._known)
            if calls:
                self._found(calls, out)
            else:
                self._give_up(out)
        elif self._too_much(self._end.depth) or self._hopeless():
            self._give_up(out)

    def _in_pythonic(self, character: str, out: list[str | ToolCall]) -> None:
        """In what may be a list of calls as Python writes them."""
        self._hold(character)
        ended = self._python_end.push(character)
        named, self._python_named = self._python_named, self._python_named or character == "("
        if not named and self._python_named:
            begun = _PYTHONIC.fullmatch(self._held)
            possible = begun is not None and (self._known is None or begun["name"] in self._known)
        elif not named:
            possible = len(self._held) < 300 and _PYTHON_START.fullmatch(self._held) is not None
        else:
            possible = not self._too_much(self._python_end.depth)
            possible = possible and not (character == "\n" and self._python_end.quote)
        if ended or not possible:
            calls = pythonic_calls(self.held) if ended else []
            if calls and all(self._known is None or call.name in self._known for call in calls):
                self._found(calls, out)
            else:
                self._give_up(out)

    def _hopeless(self) -> bool:
        """Whether the JSON so far can no longer become a call, told by its first key."""
        if len(self._held) > 64:
            return False
        start = re.match(r"(\[\s*)?\{?\s*", self._held)
        rest = self._held[start.end() :] if start else ""
        if not rest or len(rest) > 16:
            return False
        if "{" not in self._held:
            return rest[0] not in "{]"
        return not any(f'"{key}"'.startswith(rest[: len(key) + 2]) for key in KEYS)

    def _give_up(self, out: list[str | ToolCall]) -> None:
        """The held text is no call. It is emitted as it is: nothing inside a JSON value is looked at again."""
        held, self._mode = self._take(), "text"
        self._emit(held, out)
        if held.endswith("\n"):
            self._mode = "line"

    def _in_function(self, character: str, out: list[str | ToolCall]) -> None:
        self._held += character
        name = self._held[len(_FUNCTION) :]
        if character == ">" and len(name) > 1:
            self._name, self._mode, self._end = name[:-1], "arguments", JsonEnd()
        elif not _NAME.fullmatch(name):
            self._replay(out)

    def _in_arguments(self, character: str, out: list[str | ToolCall]) -> None:
        self._hold(character)
        if not self._end.depth and character != "{":
            if not character.isspace() or len(self._held) == _BEGINS:
                self._replay(out)
        elif self._end.push(character):
            value = json_value(self.held[len(_FUNCTION) + len(self._name) + 1 :])
            if isinstance(value, dict) and (self._known is None or self._name in self._known):
                self._found([ToolCall(self._name, value)], out)
                self._mode, self._close = "close", _CLOSE
            else:
                self._give_up(out)
        elif self._too_much(self._end.depth):
            self._give_up(out)

    def _in_tagged(self, character: str, out: list[str | ToolCall]) -> None:
        """After <tool_call>: a call in JSON."""
        self._hold(character)
        if not self._end.depth and character not in "{[":
            if not character.isspace() or len(self._held) > 256:
                self._replay(out)
        elif self._end.push(character):
            calls = tagged_calls(self.held, self._known)
            if calls:
                self._found(calls, out)
                self._mode, self._close = "close", _TOOL_CALL_CLOSE
            else:
                self._give_up(out)
        elif self._too_much(self._end.depth):
            self._give_up(out)

    def _in_close(self, character: str, out: list[str | ToolCall]) -> None:
        """After the arguments: the closing tag is swallowed, and not missed when a model forgets it."""
        held = self._held + character
        tag = held.lstrip() if self._close == _TOOL_CALL_CLOSE else held
        if tag == self._close:
            self._held, self._mode = "", "line"
        elif self._close.startswith(tag) and len(held) < 256:
            self._held = held
        else:
            self._held, self._mode = "", "line"
            self._input.extendleft(reversed(held))

    def _in_builtin(self, character: str, out: list[str | ToolCall]) -> None:
        self._hold(character)
        if len(self._held) <= len(_BUILTIN_STARTS[1]) and any(s.startswith(self._held) for s in _BUILTIN_STARTS):
            self._end = JsonEnd()
            return
        self._end.push(character)
        if not self._held.startswith(_BUILTIN_STARTS) or character == "\n" or self._too_much(0):
            self._replay(out)
        elif character == ")" and not self._end.in_string:
            match = _BUILTIN.fullmatch(self.held)
            if match and match[1] in self._builtin:
                query = json_value(match[2])
                self._found([ToolCall(match[1], {"query": query if isinstance(query, str) else match[2][1:-1]})], out)
            else:
                self._replay(out)

    def _in_python(self, character: str, out: list[str | ToolCall]) -> None:
        self._hold(character)

    def _finish_python(self, held: str, cut_off: bool, out: list[str | ToolCall]) -> None:
        """Everything after <|python_tag|>: calls, or else code for the interpreter, or else text."""
        inner = ReplyParser(self._known, self._builtin)
        parsed = [] if PYTHON_TAG in held else inner.push(held) + inner.finish()
        if any(isinstance(item, ToolCall) for item in parsed):
            self._space = ""
            out.extend(item for item in parsed if isinstance(item, ToolCall) or item.strip())
        elif (
            not held.strip()
            or cut_off
            or "code_interpreter" not in self._builtin
            or _LOOKS_LIKE_CALL.match(held.strip())
        ):
            out.append(self._space + held)
        else:
            self._space = ""
            out.append(ToolCall("code_interpreter", {"code": held}))


def _join(items: list[str | ToolCall]) -> list[str | ToolCall]:
    """Neighbouring strings joined, empty ones left out."""
    joined: list[str | ToolCall] = []
    for is_text, run in groupby(items, lambda item: isinstance(item, str)):
        each = list(run)
        joined += ["".join(map(str, each))] if is_text else each
    return [item for item in joined if item != ""]


def parse_reply(
    text: str, known: frozenset[str] | None = None, *, cut_off: bool = False
) -> tuple[str, tuple[ToolCall, ...]]:
    """A whole reply's text and calls."""
    parser = ReplyParser(known)
    items = parser.push(text) + parser.finish(cut_off=cut_off)
    content = "".join(item for item in items if isinstance(item, str))
    return content, tuple(item for item in items if isinstance(item, ToolCall))
