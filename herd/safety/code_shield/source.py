"""One piece of code made ready for rules: comments and strings blanked, calls and assignments found, lines counted.

Everything has the length of the original, so that places agree. All work is linear: each look around a place is bounded.
"""

import re
from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

from herd.safety.code_shield.languages import Language

FILL = "\x01"  # a character of a string
HOLE = "\x02"  # where code is put into a string
_WINDOW = 1000  # characters of arguments or of an assigned value that are looked at
_BUDGET, _PER_CHARACTER = 40_000, 0.08  # units of work for one scan; usual code needs a fifth of it
_BLOCK = 5000  # how far a function is looked at, to either side
_HEADER = 300  # characters before a function's name that may hold its decorators

_ASSIGN = re.compile(
    r"([A-Za-z_$][\w$]*)[ \t]{0,20}(?::[ \t]{0,3}[\w<>\[\], ?.&*]{1,60}|\[[^\]\n=]{0,40}\])?[ \t]{0,20}(:=|<<(?!<)|[+.|%]?=)(?![=>~])"
)
_MUTATE = re.compile(
    r"\b(\w+)\s{0,3}\.\s{0,3}(?:append|Append|AppendFormat|AppendLine|push_str|concat|WriteString|insert|add)\("
)
_FILLS = re.compile(r"\b(?:v?s[n]?printf|asprintf|str[ln]?cat|str[ln]?cpy)\s{0,3}\(\s{0,3}&?(\w+)\s{0,3},")
_FOR = re.compile(
    r"\bfor(?:each)?\b\s{0,3}\(?\s{0,3}(?:(?:const|let|var|final|auto)\b\s{0,3})?(?:[\w<>&*:]{1,60}\s{1,3})?(?:_,\s{0,3})?([A-Za-z_$]\w*)\s{0,3}(?:in\b|of\b|:=\s{0,3}range\b|:)"
)
_NO_BREAK = re.compile(r"[^\n]")
_HEAD = re.compile(r"\w{0,2}#{0,3}[@$]{0,2}[\"'`/%]?")
_STOPS = re.compile(r"[()\[\]{}\n;]")
_BRACKETS = re.compile(r"[()\[\]{},]")


class Span(NamedTuple):
    """A piece of the code, from start to end."""

    start: int
    end: int


class BudgetSpent(Exception):
    """More places to judge than the budget of one scan allows."""


class Source:
    """Code in one language. `masked` has strings filled and comments blanked; `raw` is the original."""

    def __init__(self, raw: str, language: Language) -> None:
        self.raw = raw
        self.language = language
        self.strings: list[Span] = []
        self._unclosed: set[str] = set()  # here-documents' tags that do not come again
        self.masked = self._mask()
        self.budget = _BUDGET + int(len(raw) * _PER_CHARACTER)
        self.known: dict[object, object] = {}  # what was found out about places, by what was asked

    def spend(self, units: int) -> None:
        """Count work, one unit about a microsecond; BudgetSpent when a scan has done enough of it."""
        self.budget -= units
        if self.budget < 0:
            raise BudgetSpent

    def _mask(self) -> str:
        raw, pieces, at = self.raw, [], 0
        search, strings, heredoc = self.language.tokens.search, self.strings, self.language.heredoc
        while match := search(raw, at):
            start, end = match.span()
            if start > at:
                pieces.append(raw[at:start])
            kind = match.lastgroup
            if kind == "c":
                pieces.append(_NO_BREAK.sub(" ", raw[start:end]))
            elif heredoc and match["h"] is not None:
                end = self._heredoc(match, pieces)
            else:
                strings.append(Span(start, end))
                if kind == "f" and end - start > 2:
                    pieces.append(self._holes(raw[start:end]))
                elif end - start < 3:
                    pieces.append(raw[start:end])
                else:
                    pieces.append(_blank(raw[start:end]))
            at = end if end > at else at + 1
        pieces.append(raw[at:])
        return "".join(pieces)

    def _heredoc(self, match: re.Match[str], pieces: list[str]) -> int:
        """A here-document's opener becomes a string; code put into the body is told by a hole in it."""
        start, end = match.span()
        close = None
        if match["tag"] not in self._unclosed:
            close = re.compile(rf"\n[ \t]*{match['tag']}\b").search(self.raw, end)
            if close is None:
                self._unclosed.add(match["tag"])
        if close is None:  # no here-document after all
            pieces.append(self.raw[start:end])
            return end
        body = self.raw[end : close.end()]
        line = body.find("\n")
        filled = match["q"] != "'" and re.search(self.language.hole, body[line:]) is not None
        pieces.append(
            f'"{HOLE}_v' + FILL * (end - start - 5) + '"'
            if filled and end - start >= 5
            else _blank(self.raw[start:end])
        )
        self.strings.append(Span(start, end))
        pieces.append(_blank_lines(body[:line], self.language))
        pieces.append(FILL * (len(body) - line))
        self.strings.append(Span(end + line, end + len(body)))
        return end + len(body)

    def _holes(self, text: str) -> str:
        """A string with its text filled and the code that is put into it kept."""
        pieces, at = [], 0
        for match in self.language.holes.finditer(text):
            group = next((i for i, value in enumerate(match.groups(), 1) if value), None)
            if group is None and not re.fullmatch(r"\{(?::[^{}]*)?\}", match[0]):
                continue
            pieces.append(FILL * (match.start() - at))
            if group is None:  # {} names no code, yet something is put there
                pieces.append(FILL * len(match[0]))
            else:
                a, b = match.span(group)
                pieces += [HOLE * (a - match.start()), text[a:b].replace("\n", " "), HOLE * (match.end() - b)]
            at = match.end()
        if at == 0:
            return _blank(text)
        pieces.append(FILL * (len(text) - at))
        inner = "".join(pieces)[1:-1]
        if HOLE not in inner:
            inner = re.sub(r"\x01(?=[^\x01])|(?<=[^\x01])\x01", HOLE, inner)
        return text[:1] + inner + text[-1:]

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(m.end() for m in re.finditer("\n", self.raw))]

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of a position, both counted from 1."""
        line = bisect_right(self._line_starts, at)
        return line, at - self._line_starts[line - 1] + 1

    @cached_property
    def _functions(self) -> list[int]:
        return [m.start() for m in re.finditer(self.language.function, self.masked)]

    def function(self, at: int) -> Span:
        """From the start of the function around a position to the start of the next one, cut in blocks."""
        i = bisect_right(self._functions, at)
        start = self._functions[i - 1] if i else 0
        end = self._functions[i] if i < len(self._functions) else len(self.raw)
        block = at // _BLOCK  # cut in whole blocks, so that what is found out about them can be kept
        return Span(max(start, (block - 1) * _BLOCK), min(end, (block + 2) * _BLOCK))

    def header(self, at: int) -> str:
        """The decorators and parameters of the function around a position."""
        start = self.function(at).start
        if ("header", start) not in self.known:
            self.known["header", start] = self._header(start)
        return str(self.known["header", start])

    def _header(self, start: int) -> str:
        self.spend(10)
        end = self.masked.find("{", start, start + 600)
        body = self.masked.find("):", start, start + 600)
        ends = [e for e in (end, body) if e >= 0]
        before = self.masked[max(0, start - _HEADER) : start]
        cut = max(before.rfind("}"), before.rfind(";"), before.rfind("\n\n\n"))
        return before[cut + 1 :] + self.masked[start : min(ends, default=start + 300)]

    @cached_property
    def _assignments(self) -> dict[str, list[tuple[int, int, bool]]]:
        """Name -> (position, start of the value, whether it adds to what was there), in the order of the code."""
        found: dict[str, list[tuple[int, int, bool]]] = {}
        for match in _ASSIGN.finditer(self.masked):
            found.setdefault(match[1], []).append((match.start(), match.end(), match[2] in ("+=", ".=", "<<", "%=")))
        for pattern in (_MUTATE, _FILLS):
            for match in pattern.finditer(self.masked):
                found.setdefault(match[1], []).append((match.start(), match.end(), True))
        for match in _FOR.finditer(self.masked):
            found.setdefault(match[1], []).append((match.start(), match.end(), False))
        for places in found.values():
            places.sort()
        return found

    def values(self, name: str, before: int) -> list[tuple[Span, bool]]:
        """What was assigned to a name last before a position, and what was added to it since (True); nearest first, at most eight."""
        scope = self.function(before).start
        places = self._assignments.get(name, [])
        self.spend(4)
        spans: list[tuple[Span, bool]] = []
        for at, start, adds in reversed(places[: bisect_right(places, (before, -1, False))][-12:]):
            if at < scope and spans:
                break
            span = self.value_at(start)
            if span.start <= before < span.end:
                continue
            spans.append((span, adds))
            if not adds or len(spans) == 8:
                return spans
        if not spans and places:  # a constant written further down
            return [(self.value_at(start), adds) for _, start, adds in places[:1]]
        return spans

    def value_at(self, start: int) -> Span:
        """An assigned value: to the end of its statement, brackets closed."""
        end = min(len(self.masked), start + _WINDOW)
        depth = 0
        self.spend(4)
        for count, match in enumerate(_STOPS.finditer(self.masked, start, end)):
            c = match[0]
            if count % 16 == 15:
                self.spend(8)
            if c in "([{":
                depth += 1
            elif c in ")]}":
                depth -= 1
                if depth < 0:
                    return Span(start, match.start())
            elif depth == 0 and c in "\n;" and self._ends_at(start, match.start()):
                return Span(start, match.start())
        return Span(start, end)

    def _ends_at(self, start: int, at: int) -> bool:
        return bool(self.masked[start:at].strip()) and not _continues(self.masked, at)

    def arguments(self, opening: int) -> tuple[list[Span], int]:
        """The arguments of a call whose bracket opens at a position, and where it closes (or where looking ended)."""
        found = self.known.get(("arguments", opening))
        if found is None:
            found = self.known["arguments", opening] = self._arguments(opening)
        return found  # type: ignore[return-value]

    def _arguments(self, opening: int) -> tuple[list[Span], int]:
        spans, depth, at = [], 0, opening + 1
        end = min(len(self.masked), opening + _WINDOW)
        self.spend(4)
        for count, match in enumerate(_BRACKETS.finditer(self.masked, opening + 1, end)):
            c = match[0]
            if count % 16 == 15:
                self.spend(8)
            if c in "([{":
                depth += 1
            elif c == ",":
                if depth == 0:
                    spans.append(Span(at, match.start()))
                    at = match.end()
            elif depth == 0:
                end = match.start()
                break
            else:
                depth -= 1
        if self.masked[at:end].strip():
            spans.append(Span(at, end))
        return spans, end

    def bare_arguments(self, start: int) -> tuple[list[Span], int]:
        """The arguments of a call without brackets: to the end of its statement."""
        span = self.value_at(start)
        spans, depth, at = [], 0, start
        for match in _BRACKETS.finditer(self.masked, start, span.end):
            c = match[0]
            depth += (c in "([{") - (c in ")]}")
            if c == "," and depth == 0:
                spans.append(Span(at, match.start()))
                at = match.end()
        if self.masked[at : span.end].strip():
            spans.append(Span(at, span.end))
        return spans, span.end


def _continues(text: str, at: int) -> bool:
    """Whether a statement goes on after a line break: an operator stands before or after it."""
    if text[at] != "\n":
        return False
    before = text[max(0, at - 40) : at].rstrip()
    after = text[at : at + 60].lstrip()
    return before.endswith(("+", "=", "(", ",", "\\", "||", "&&", "?", "=>", "%", " .")) or after.startswith(
        ("+", ".", "?", "||", "&&", "% ")
    )


def _blank(text: str) -> str:
    """A string's text as fill; the quotes around it stay."""
    start = 1
    if text[0] not in "\"'`":
        head = _HEAD.match(text)
        start = head.end() if head else 1
        if len(text) <= start:
            return text
    return text[:start] + FILL * (len(text) - start - 1) + (text[-1] if text[-1] in "\"'`)]}/" else FILL)


def _blank_lines(text: str, language: Language) -> str:
    return re.sub(r"\"[^\"\n]*\"|'[^'\n]*'", lambda m: _blank(m[0]), text)
