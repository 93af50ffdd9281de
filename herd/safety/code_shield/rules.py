"""Rules as data: TOML files, one a language and one for what is alike in all of them, read when a language is first scanned.

A rule looks at a place in the code (`call`, `word`, `name` or `string`) and asks questions about it; it fires when every question that
it has is answered with yes. docs/how-to/code-shield-rules.md lists the questions.
"""

import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd.errors import ConfigError

FOLDER = Path(__file__).parent / "rules"
SEVERITIES = ("low", "medium", "high")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of a file. Regular expressions are strings here; `expression` compiles each once."""

    id: str
    cwe: str
    severity: Literal["low", "medium", "high"]
    why: str
    safer: str
    languages: tuple[str, ...] = ()
    call: tuple[str, ...] = ()  # names of functions that are called
    word: tuple[str, ...] = ()  # names that stand anywhere in the code
    called: str = ""  # an expression that names of called functions fit
    name: str = ""  # an expression that names fit which are assigned to
    string: str = ""  # an expression that the text of a string holds
    start: bool = False  # the string begins with it
    before: str = ""  # code right before the place
    after: str = ""  # code right after the place
    count: int = -1  # at most so many arguments
    arg: int | str = 0  # the argument that is looked at: a number from 0, "last" or "any"
    value: Literal["", "literal", "dynamic", "built", "tainted"] = ""
    clean: str = ""  # calls that make a value harmless
    has: str = ""  # the value's text, with what it was put together from, holds this
    lacks: str = ""
    args_have: str = ""  # all arguments together, as written
    args_lack: str = ""
    near: str = ""  # somewhere in the function
    not_near: str = ""
    file_has: str = ""
    file_lacks: str = ""
    guarded: bool = True  # a condition before it that checks the variable clears it
    bad: tuple[str, ...] | dict[str, tuple[str, ...]] = ()
    good: tuple[str, ...] | dict[str, tuple[str, ...]] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: list[Rule] = []
    sets: dict[str, str] = {}


@lru_cache(maxsize=4096)
def expression(pattern: str) -> re.Pattern[str]:
    """A rule's expression, compiled."""
    return re.compile(pattern)


class Rules:
    """The rules of one language, found by the word where each begins."""

    def __init__(self, rules: list[Rule]) -> None:
        self.all = rules
        self.words: dict[str, list[Rule]] = {}
        self.names = [(rule, rule.name or rule.called) for rule in rules if rule.name or rule.called]
        self.strings = [rule for rule in rules if rule.string]
        for rule in rules:
            for word in (*rule.call, *rule.word):
                self.words.setdefault(word, []).append(rule)
        self._named: dict[str, list[Rule]] = {}

    def at(self, word: str) -> list[Rule]:
        """The rules that may begin with a word."""
        found = self._named.get(word)
        if found is None:
            found = self.words.get(word, []) + [r for r, fits in self.names if expression(fits).search(word)]
            if len(self._named) < 50_000:
                self._named[word] = found
        return found


def read_rules(path: Path, sets: dict[str, str]) -> list[Rule]:
    """The rules of a file, shared expressions put in. ConfigError names the file and what is wrong with it."""
    try:
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File, strict=False)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: not a rules file: {error}; see docs/how-to/code-shield-rules.md") from error
    sets |= file.sets
    rules = []
    for rule in file.rule:
        values: dict[str, Any] = {}
        for key in ("clean", "has", "lacks", "args_have", "args_lack", "near", "not_near", "after", "before", "string"):
            text: str = getattr(rule, key)
            if re.fullmatch(r"@\w+", text):
                if text[1:] not in sets:
                    raise ConfigError(
                        f"{path}: rule {rule.id}: no shared expression {text!r}; there are {', '.join(sets)}"
                    )
                values[key] = text = sets[text[1:]]
            try:
                expression(text)
            except re.error as error:
                raise ConfigError(f"{path}: rule {rule.id}: {key} is no regular expression: {error}") from error
        rules.append(msgspec.structs.replace(rule, **values))
    return rules


@lru_cache(maxsize=64)
def load(language: str, more: tuple[Path, ...] = ()) -> Rules:
    """The rules for a language: the common ones, its own, and those of more files."""
    sets: dict[str, str] = {}
    rules = [r for r in read_rules(FOLDER / "common.toml", sets) if not r.languages or language in r.languages]
    for name in _FAMILY.get(language, (language,)):
        if (FOLDER / f"{name}.toml").exists():
            rules += read_rules(FOLDER / f"{name}.toml", sets)
    for path in more:
        rules += [r for r in read_rules(path, sets) if not r.languages or language in r.languages]
    return Rules(rules)


_FAMILY = {"typescript": ("javascript", "typescript"), "cpp": ("c", "cpp"), "kotlin": ("java", "kotlin")}
