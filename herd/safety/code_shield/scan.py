"""Look for insecure code: every place where a rule begins is visited once, and the rule's questions are answered there."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from herd.errors import ConfigError
from herd.safety.code_shield.detect import fences, guesses
from herd.safety.code_shield.languages import LANGUAGES
from herd.safety.code_shield.rules import SEVERITIES, Rule, Rules, expression, load
from herd.safety.code_shield.source import HOLE, BudgetSpent, Source, Span
from herd.safety.code_shield.values import Value, value

_WORD = re.compile(r"[A-Za-z_]\w*")
_OPEN = re.compile(r"[!?]?[ \t]{0,3}(?:::)?(?:<[^<>()\n]{0,80}>)?[ \t\n]{0,8}\(")
_IS = re.compile(
    r"""["']?\]?[ \t]{0,20}(?:=>|:=|\|\|=|=(?![=>~])|:(?![:=])(?:[ \t]{0,3}(?:&?(?:'static )?\w+[?&]?|string|String|char\s?\*)[ \t]{0,3}=(?![=>]))?)[ \t]{0,20}"""
)
_BARE = re.compile(r"[!?]?[ \t]+(?![=.,)\]}<>&|*/+?;:-][ =&|]|(?:if|do|unless|and|or)\b)")
_BEFORE, _AFTER = 100, 500
_JOIN_AFTER = re.compile(r"""[ \t\n]{0,40}(?:\+(?!\+)|%(?![=\w])|%[ \t]|\.[ \t]?(?=\$|["'(]|\w+\()|<<(?!<)|\|\|)""")
_FORMATTER = re.compile(
    r"(?:\b(?:sprintf|snprintf|Sprintf|Sprint|format!?|String\.format|string\.Format|Format|asprintf|formatted|String\.init|NSString|write!|printf|concat|println!)\s?)\((?:[^()\n\"'`]{0,80},)?\s{0,20}[&@$]?$"
)
_CONDITION = re.compile(r"\b(?:if|unless|guard|while|assert|require|elif|switch|case|when|match)\b[^\n]{0,240}")
_NOTHING = re.compile(r"\b(?:null|None|nil|undefined|NULL)\b|[!=]=+\s?(?:null|None|nil|0|NULL|\"\"|'')")
_CHECKS = re.compile(
    r"(?i)\bin\b|includes|\bhas\b|\.has\(|contains|match|\btest\(|starts_?with|hasprefix|allow|valid|safe|white_?list|permitted|hostname|\bhost\b|equals|indexof|sizeof|<=?|>=?|"
    r"===?|is_relative_to|rfind|isalnum|isdigit|in_array|local"
)


@dataclass(frozen=True)
class Finding:
    """Insecure code at one place. Lines and columns count from 1; `severity` is low (look at it), medium or high."""

    rule: str
    cwe: str
    severity: str
    line: int
    column: int
    why: str
    safer: str
    language: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column} {self.severity} {self.cwe} {self.why} {self.safer}"


def scan(code: str, language: str | None = None, *, minimum: str = "low", rules: Sequence[Path] = ()) -> list[Finding]:
    """Insecure places of a piece of code, in order. Broken and unfinished code is scanned as far as it goes.

    `language` is one of LANGUAGES (or a usual short name such as "js"); when it is not given it is guessed, and text with Markdown
    fences is scanned fence by fence. `rules` names more rule files. Raises ConfigError for an unknown language or severity.
    """
    if minimum not in SEVERITIES:
        raise ConfigError(f"severity {minimum!r} is unknown; expected one of {', '.join(SEVERITIES)}")
    found: list[Finding] = []
    if language is not None and language.lower() not in ("markdown", "md"):
        found = _scan_in(code, [canonical(language)], 0, tuple(rules))
    elif parts := fences(code):
        for part in parts:
            names = [ALIASES[part.label]] if part.label in ALIASES else [] if part.label else guesses(part.code)
            found += _scan_in(part.code, names, part.line - 1, tuple(rules))
    elif language is None:
        found = _scan_in(code, guesses(code), 0, tuple(rules))
    least = SEVERITIES.index(minimum)
    return [f for f in found if SEVERITIES.index(f.severity) >= least]


ALIASES = {name: name for name in LANGUAGES} | {
    "py": "python", "python3": "python", "js": "javascript", "jsx": "javascript", "mjs": "javascript", "cjs": "javascript", "node": "javascript",
    "ts": "typescript", "tsx": "typescript", "c++": "cpp", "cc": "cpp", "cxx": "cpp", "hpp": "cpp", "h": "c", "cs": "csharp", "c#": "csharp",
    "rs": "rust", "golang": "go", "rb": "ruby", "kt": "kotlin", "kts": "kotlin", "sh": "shell", "bash": "shell", "zsh": "shell", "console": "shell",
    "razor": "csharp", "cshtml": "csharp", "html": "javascript", "vue": "javascript", "svelte": "javascript",
}  # fmt: skip


def canonical(language: str) -> str:
    """The name of a language by its own or a usual short name; ConfigError when code in it cannot be scanned."""
    name = ALIASES.get(language.lower())
    if name is None:
        raise ConfigError(f"language {language!r} cannot be scanned; expected one of {', '.join(sorted(LANGUAGES))}")
    return name


def _scan_in(code: str, languages: Sequence[str], shift: int, more: tuple[Path, ...]) -> list[Finding]:
    """What the rules of one language find, or of two where it is not sure; of each line and CWE the most severe."""
    best: dict[tuple[int, str], Finding] = {}
    for language in languages:
        source = Source(code, LANGUAGES[language])
        for rule, at in _fired(source, load(language, more)):
            line, column = source.place(at)
            finding = Finding(rule.id, rule.cwe, rule.severity, line + shift, column, rule.why, rule.safer, language)
            other = best.get((line, rule.cwe))
            if other is None or SEVERITIES.index(other.severity) < SEVERITIES.index(rule.severity):
                best[line, rule.cwe] = finding
    return sorted(best.values(), key=lambda f: (f.line, f.column))


_TOO_MANY = Rule(
    "too-many-places", "CWE-1120", "medium", "There is more to judge here than a scan allows; the rest was not judged.",
    "Scan smaller pieces.",
)  # fmt: skip


def _fired(source: Source, rules: Rules) -> Iterator[tuple[Rule, int]]:
    """Each rule that fires and where."""
    at = 0
    try:
        for match in _WORD.finditer(source.masked):
            at = match.start()
            for rule in rules.at(match[0]):
                source.spend(2)
                if _begins(source, rule, at, match.end()):
                    yield rule, at
        inside = [s.start for s in source.strings]
        for rule in rules.strings:
            for match in expression(rule.string).finditer(source.raw):
                at = match.start()
                i = bisect_right(inside, at) - 1
                if i < 0 or source.strings[i].end <= at or (rule.start and inside[i] != at):
                    continue
                source.spend(5)
                if _string_fires(source, rule, source.strings[i], at):
                    yield rule, at
    except BudgetSpent:
        yield _TOO_MANY, at


def _begins(source: Source, rule: Rule, start: int, end: int) -> bool:
    """Whether a rule fires at a word."""
    calls = bool(rule.called or (rule.call and source.masked[start:end] in rule.call))
    if calls and _call(source, start, end) is None:
        return False
    if rule.before:
        source.spend(4)
        if not _ends(rule.before, source.masked, start, end):
            return False
    if rule.after:
        source.spend(4)
        if not expression(rule.after).match(source.masked, end, end + _AFTER):
            return False
    if calls:
        return _call_fires(source, rule, start, end)
    if rule.name:
        return _name_fires(source, rule, start, end)
    span = source.value_at(end) if rule.has or rule.lacks or rule.args_have or rule.args_lack else None
    text = source.raw[span.start : span.end] if span else ""
    if (rule.args_have and not expression(rule.args_have).search(text)) or (
        rule.args_lack and expression(rule.args_lack).search(text)
    ):
        return False
    return _around(source, rule, start)


def _ends(pattern: str, text: str, start: int, end: int) -> bool:
    """Whether what a pattern describes stands right before the word from start to end, which it may look at."""
    flags, rest = ("(?i)", pattern[4:]) if pattern.startswith("(?i)") else ("", pattern)
    word = r"\b\w+" if end > start else ""
    return expression(f"{flags}(?:{rest}){word}$").search(text[max(0, start - _BEFORE) : end]) is not None


_DEFINES = re.compile(r"\b(?:def|function|func|fn|fun)\s{1,3}(?:\w+\s?(?:\.|::)\s?)?[&*]?$")


def _call(source: Source, start: int, end: int) -> tuple[list[Span], int, int] | None:
    """Arguments, start and end of the call that a name begins; None when it is no call."""
    key = ("call", start)
    if key not in source.known:
        source.spend(1)
        source.known[key] = _read_call(source, start, end)
    return source.known[key]  # type: ignore[return-value]


def _read_call(source: Source, start: int, end: int) -> tuple[list[Span], int, int] | None:
    if _DEFINES.search(source.masked, max(0, start - 40), start):
        return None
    opening = _OPEN.match(source.masked, end, end + 100)
    if opening is not None:
        arguments, close = source.arguments(opening.end() - 1)
        return arguments, opening.end(), close
    if re.fullmatch(source.language.bare_calls, source.masked[start:end]) and _BARE.match(source.masked, end, end + 20):
        arguments, close = source.bare_arguments(end)
        return arguments, end, close
    return None


def _call_fires(source: Source, rule: Rule, start: int, end: int) -> bool:
    call = _call(source, start, end)
    if call is None:
        return False
    arguments, first, close = call
    if 0 <= rule.count < len(arguments):
        return False
    whole = source.raw[first:close]
    if rule.args_have and not expression(rule.args_have).search(whole):
        return False
    if rule.args_lack and expression(rule.args_lack).search(whole):
        return False
    if not _around(source, rule, start):
        return False
    if not rule.value and not rule.has and not rule.lacks:
        return True
    if rule.arg == "any":
        chosen = arguments
    elif rule.arg == "last":
        chosen = arguments[-1:]
    else:
        at = max(int(rule.arg), 0)
        chosen = arguments[at : at + 1]
    return any(_value_fits(source, rule, span) for span in chosen)


def _name_fires(source: Source, rule: Rule, start: int, end: int) -> bool:
    """A name that something is assigned to, also as a key or a named argument."""
    match = _IS.match(source.masked, end, end + 120)
    if match is None:
        return False
    span = source.value_at(match.end())
    span = Span(span.start, _top_comma(source.masked, span.start, span.end))
    return _value_fits(source, rule, span) and _around(source, rule, start)


def _string_fires(source: Source, rule: Rule, span: Span, at: int) -> bool:
    """A string that holds something, and, when the rule asks for it, is put together with a value."""
    before = source.masked[max(0, span.start - _BEFORE) : span.start]
    if rule.before and not _ends(rule.before, source.masked, span.start, span.start):
        return False
    if rule.after and not expression(rule.after).match(source.masked, span.end, span.end + _AFTER):
        return False
    if not rule.value:
        return _around(source, rule, at)
    whole = None
    if HOLE in source.masked[span.start : span.end]:
        whole = span
    formatted = _FORMATTER.search(before)
    if _JOIN_AFTER.match(source.masked, span.end, span.end + 60) or re.match(
        r"\s?\.\s?(?:format|formatted)\(", source.masked[span.end : span.end + 20]
    ):
        value_end = source.value_at(span.end).end
        cut = _top_comma(source.masked, span.end, value_end)
        whole = Span(span.start, cut)
    elif formatted and re.search(r"%[-\d.]*[sdvqxu]|\{\w*\}|%@", source.raw[span.start : span.end]):
        whole = Span(span.start, source.value_at(span.end).end)
    return whole is not None and _value_fits(source, rule, whole, joined=True) and _around(source, rule, at)


def _top_comma(masked: str, start: int, end: int) -> int:
    depth = 0
    for match in re.compile(r"[()\[\]{},]").finditer(masked, start, end):
        depth += (match[0] in "([{") - (match[0] in ")]}")
        if match[0] == "," and depth == 0:
            return match.start()
    return end


def _value_fits(source: Source, rule: Rule, span: Span, joined: bool = False) -> bool:
    found = value(source, span, expression(rule.clean) if rule.clean else None)
    kinds = {
        "": True,
        "literal": found.literal,
        "dynamic": found.dynamic,
        "built": found.dynamic if joined else found.built,
        "tainted": found.tainted and found.dynamic,
    }
    if not kinds[rule.value]:
        return False
    source.spend(2 + len(found.text) // 16)
    if rule.has and not expression(rule.has).search(found.text):
        return False
    if rule.lacks and expression(rule.lacks).search(found.text):
        return False
    return not (
        rule.guarded and rule.value in ("tainted", "dynamic", "built") and _is_guarded(source, found, span.start)
    )


def _is_guarded(source: Source, found: Value, at: int) -> bool:
    """Whether a condition earlier in the function checks a variable of the value against something."""
    names = set(found.names[:6])
    if not names:
        return False
    begin = max(source.function(at).start, at - 3000)
    if "conditions" not in source.known:
        places = [m.span() for m in _CONDITION.finditer(source.raw)]
        source.known["conditions"] = ([s for s, _ in places], places)
    starts: list[int]
    spans: list[tuple[int, int]]
    starts, spans = source.known["conditions"]  # type: ignore[misc]
    for i in range(bisect_right(starts, at) - 1, -1, -1):
        if starts[i] < begin:
            return False
        key = ("condition", i)
        if key not in source.known:
            source.spend(10)
            text = source.raw[spans[i][0] + 2 : min(spans[i][1], at)]
            checks = _CHECKS.search(_NOTHING.sub("", text)) is not None
            source.known[key] = frozenset(re.findall(r"(?<![\w.])\$?\w+", text)) if checks else frozenset()
        source.spend(1)
        if names & source.known[key]:  # type: ignore[operator]
            return True
    return False


def _around(source: Source, rule: Rule, at: int) -> bool:
    """The questions about the function and the file around."""
    if rule.near or rule.not_near:
        scope = source.function(at)
        if (rule.near and not _holds(source, rule.near, scope)) or (
            rule.not_near and _holds(source, rule.not_near, scope)
        ):
            return False
    whole = Span(0, len(source.raw))
    return not (
        (rule.file_has and not _holds(source, rule.file_has, whole))
        or (rule.file_lacks and _holds(source, rule.file_lacks, whole))
    )


def _holds(source: Source, pattern: str, span: Span) -> bool:
    key = ("holds", pattern, span.start, span.end)
    if key not in source.known:
        source.spend(5 + (span.end - span.start) // 40)
        source.known[key] = expression(pattern).search(source.raw, span.start, span.end) is not None
    return bool(source.known[key])
