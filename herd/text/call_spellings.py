"""How models write calls: the one list that the parser of replies and the grammars that hold them to schemas share.

A spelling begins with something that the function's name is part of. The parser takes for a call only what begins so, and
a grammar holds everything that follows such a beginning: no call that is parsed can have escaped its schema. So the
beginnings are matched letter by letter: no escapes in names or keys, nothing but `type` and `id` before the name.
The expressions are written in what Python's and Rust's regular expressions have in common.
"""

import re
from typing import NamedTuple

NAME = r"[A-Za-z0-9_.\-]{1,256}"
PYTHON_NAME = r"[A-Za-z_][A-Za-z0-9_.]{0,255}"
_SPACE = r"[ \t\n\r]*"
_SHORT = r"[ \n]{0,8}"  # where a grammar lets a model write space: it could do so for ever
_KEY = rf"{_SPACE}:{_SPACE}"
_OPEN = rf'\{{{_SPACE}("(type|id)"{_KEY}"[^"\\]*"{_SPACE},{_SPACE}){{0,2}}'
_ARGUMENTS = rf'{_SHORT},{_SHORT}"(parameters|arguments)"{_SHORT}:{_SHORT}'


class Spelling(NamedTuple):
    """`begin` holds NAME where the name stands; between it and the JSON of the arguments stands `middle`, after it `end`."""

    begin: str
    middle: str
    end: str

    def of(self, name: str) -> str:
        """The beginning of a call of one function."""
        return self.begin.replace("NAME", re.escape(name))

    def end_of(self, name: str) -> str:
        """The end of a call of one function whose name comes last."""
        return self.end.replace("NAME", re.escape(name))

    def named(self, pattern: str = NAME, before: str = "", after: str = "") -> re.Pattern[str]:
        """The beginning of a call of any function, with a group `name`."""
        return re.compile(before + self.begin.replace("NAME", f"(?P<name>{pattern})") + after)


# {"name": "f", "parameters": {}}, with "function" for "name" now and then
FLAT = Spelling(rf'{_OPEN}"(name|function)"{_KEY}"NAME"', _ARGUMENTS, rf"{_SHORT}\}}")
# {"type": "function", "function": {"name": "f", "arguments": {}}}, OpenAI's: what is inside begins as above
OUTER = rf'{_OPEN}"function"{_KEY}'
# <function=f>{}</function>
TAGGED = Spelling("<function=NAME>", "", "</function>")
# [f(a=1), g()], Llama 3.2's; what its values may be is said by `herd.text.pythonic` and the grammar
PYTHONIC = Spelling(rf"\[{_SPACE}NAME{_SPACE}\(", "", rf"{_SHORT}\]")

# <tool_call>{"arguments": {}, "name": "f"}</tool_call>, Hermes's: which schema held the arguments shows at their end, so that a
# grammar follows those of all functions at once. Only in tags, where nothing else than a call can be meant.
AHEAD = Spelling(
    rf'<tool_call>{_SPACE}\{{{_SPACE}"(arguments|parameters)"{_SPACE}:',
    r"[ \n]{1,8}",
    rf'{_SHORT},{_SHORT}"name"{_SHORT}:{_SHORT}"NAME"{_SHORT}\}}',
)

WITH_JSON = (FLAT, TAGGED)
"""Spellings whose arguments are one JSON object."""
