"""What a value is: written in the code, put together from text and variables, or come from outside; followed through assignments."""

import re
from dataclasses import dataclass

from herd.safety.code_shield.source import HOLE, Source, Span

_NAME = re.compile(r"(?<![\w.$@])\$?[A-Za-z_]\w*")
_CALLED = re.compile(r"\s{0,3}(?:<[^<>()]{0,60}>)?\s{0,3}\(")
_PREFIXES = ("b", "f", "r", "u", "L", "rb", "br", "fr", "rf", "u8")
_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        new await async return const let var val mut ref out in as is not and or if else None null nil true false True False
        NULL nullptr undefined this self super static final lambda function sizeof typeof yield try string String str int
        Integer float bytes void char unsigned struct auto list dict array Array std vec format where include Some Ok Err Box
        Vec unsafe match getBytes encode decode as_bytes toByteArray to_string to_owned into toCharArray strip trim upper lower
        """,
    )
)
_STRING = re.compile(r"""["'`]""")
_JOINS = re.compile(
    r"""["'`)\w\]]\s{0,40}(?:\+(?!\+)|%(?!=)|\.\s{0,3}(?=\$|["']|\w+\()|<<(?!<)|\|\|)|\+\s{0,40}["'`]|\.\s?(?:format|Format|formatted|concat|join|append|replace|push_str)\b"""
    r"""|\b(?:sprintf|snprintf|Sprintf|format!?|String\.format|string\.Format|fmt\.Sprintf|Fprintf|asprintf|strcat|concat|Join)\s?\("""
)
_SELF = re.compile(r"\b(?:self|this)\.|\$this->|@(?=[A-Za-z_])")
_UNIT = re.compile(r"\b[A-Z][A-Z0-9_]*\b")
_DEPTH = 4
_TEXT = 600  # characters of a value that rules look at


@dataclass
class Value:
    """What is known about a value. `text` is its code with all that it was put together from, strings included."""

    dynamic: bool = False
    built: bool = False
    tainted: bool = False
    text: str = ""
    names: tuple[str, ...] = ()

    @property
    def literal(self) -> bool:
        return not self.dynamic


def value(source: Source, span: Span, clean: re.Pattern[str] | None = None) -> Value:
    """What the code of a span gives. What passes through something that `clean` matches is harmless."""
    key = ("value", span.start, span.end, clean)
    found = source.known.get(key)
    if found is None:
        found = source.known[key] = _value(source, span, clean, _DEPTH, set())
    return found  # type: ignore[return-value]


def _value(source: Source, span: Span, clean: re.Pattern[str] | None, depth: int, seen: set[str]) -> Value:
    source.spend(15 + (span.end - span.start) // 8)
    masked = _SELF.sub(lambda m: " " * len(m[0]), source.masked[span.start : span.end])
    result = Value(text=source.raw[span.start : min(span.end, span.start + _TEXT)])
    if clean is not None:
        masked = _without_cleaned(masked, clean)
    if re.search(source.language.sources, masked):
        result.tainted = result.dynamic = True
    joined = bool(_STRING.search(masked) and _JOINS.search(masked)) or HOLE in masked
    names = []
    for match in _NAME.finditer(masked):
        name = match[0]
        if name in _KEYWORDS or (_CALLED.match(masked, match.end()) and name not in ("input",)):
            continue
        if (name in _PREFIXES and masked[match.end() : match.end() + 1] in ("'", '"')) or _label(
            masked, match.end(), source.language.name
        ):
            continue
        if name not in names:
            names.append(name)
        if len(names) == 12:
            break
    dynamic_names = []
    for name in names:
        inner = _resolve(source, name, span.start, clean, depth, seen)
        if inner is None:
            continue
        if len(result.text) < 2 * _TEXT:
            result.text += "\n" + inner.text
        result.dynamic |= inner.dynamic
        result.tainted |= inner.tainted
        result.built |= inner.built
        if inner.dynamic:
            dynamic_names += [name, *inner.names]
    if not names and _called(masked):
        result.dynamic = True  # the result of a call
    result.names = tuple(dict.fromkeys(dynamic_names))
    result.built |= joined and result.dynamic
    return result


def _resolve(
    source: Source, name: str, at: int, clean: re.Pattern[str] | None, depth: int, seen: set[str]
) -> Value | None:
    """The value of a name at a place; None when it is no variable."""
    if _UNIT.fullmatch(name) and not source.values(name, at):
        return None  # a constant of another file
    if name in seen or depth == 0:
        return Value(dynamic=True, names=(name,))
    spans = source.values(name, at)
    header = source.header(at)
    if not spans:
        tainted = _parameter(source, name, header)
        return Value(dynamic=True, tainted=tainted, names=(name,))
    together = Value()
    for span, _ in spans:
        inner = _value(source, span, clean, depth - 1, seen | {name})
        together.dynamic |= inner.dynamic
        together.tainted |= inner.tainted
        together.built |= inner.built
        if len(together.text) < _TEXT:
            together.text += "\n" + inner.text
        together.names += inner.names
    if any(adds for _, adds in spans) and together.dynamic:
        together.built = True
    return together


def _parameter(source: Source, name: str, header: str) -> bool:
    """Whether a parameter of the function around is what a request carries."""
    key = ("parameters", header)
    if key not in source.known:
        source.spend(20)
        named = set(re.findall(source.language.params, header))
        every = set(re.findall(r"\w+", header)) if re.search(source.language.entry, header) else set()
        source.known[key] = named | every
    return name.lstrip("$") in source.known[key]  # type: ignore[operator]


def _label(masked: str, end: int, language: str) -> bool:
    """Whether a name is the name of an argument and not a value."""
    after = masked[end : end + 4].lstrip()
    if language in ("python", "kotlin", "ruby", "php") and after[:1] == "=" and after[1:2] not in ("=", ">", "~"):
        return True
    return (
        after[:1] == ":"
        and after[1:2] != ":"
        and language in ("swift", "csharp", "ruby", "javascript", "typescript", "go", "rust")
    )


def _called(masked: str) -> bool:
    return any(m[1] not in _KEYWORDS for m in re.finditer(r"\b([A-Za-z_]\w*)!?\s{0,3}\(", masked))


def _without_cleaned(masked: str, clean: re.Pattern[str]) -> str:
    """The code without what is inside calls that make a value harmless."""
    pieces, at = [], 0
    for match in clean.finditer(masked):
        if match.start() < at:
            continue
        pieces.append(masked[at : match.start()])
        end = match.end()
        if masked[end - 1 : end] == "(":
            depth = 1
            while end < len(masked) and depth:
                depth += (masked[end] == "(") - (masked[end] == ")")
                end += 1
        at = end
    pieces.append(masked[at:])
    return "".join(pieces)
