"""Insecure code in an answer while it is generated: what is complete so far is scanned at the end of each line."""

from pathlib import Path

from herd.safety.code_shield.scan import ALIASES, Finding, scan

_LOOK_BACK = 4_000  # characters of a fence that are scanned again when a line is added


class Stream:
    """Feed it text as it comes; it gives back what is newly found. Lines count from the start of the whole text.

    Code is what stands inside Markdown fences; with a `language` the whole text is code. A finding is reported once.
    """

    def __init__(self, language: str | None = None, minimum: str = "low", rules: tuple[Path, ...] = ()) -> None:
        self.language, self.minimum, self.rules = language, minimum, rules
        self._text = ""  # the last line, unfinished
        self._code = ""  # lines of the fence that is open
        self._fence = "" if language is None else "code"
        self._label = language or ""
        self._line, self._begin = 0, 0
        self._seen: set[tuple[int, str]] = set()

    @property
    def inside(self) -> bool:
        """Whether a fence is open, so that a line that is not complete may be code."""
        return bool(self._fence)

    def feed(self, text: str) -> list[Finding]:
        """What the lines that this text completes show."""
        self._text += text
        if "\n" not in self._text:
            return []
        *lines, self._text = self._text.split("\n")
        found = []
        for line in lines:
            self._line += 1
            found += self._take(line)
        return found + (self._scan() if self._fence else [])

    def close(self) -> list[Finding]:
        """What the rest shows, once no more text comes."""
        return self.feed("\n") if self._text else []

    def _take(self, line: str) -> list[Finding]:
        mark = line.lstrip(" \t>")
        if self.language is None and mark.startswith(("```", "~~~")):
            if not self._fence:
                self._fence, self._label = mark[:3], (mark.strip("`~ ").split() or [""])[0].lower()
                self._code, self._begin = "", self._line
            elif mark.startswith(self._fence):
                found = self._scan()
                self._fence = ""
                return found
            return []
        if self._fence:
            self._code += line + "\n"
            if len(self._code) > 2 * _LOOK_BACK:
                cut = self._code.index("\n", len(self._code) - _LOOK_BACK) + 1
                self._begin += self._code.count("\n", 0, cut)
                self._code = self._code[cut:]
        return []

    def _scan(self) -> list[Finding]:
        name = ALIASES.get(self._label.lower())
        if name is None and (self._label or "```" in self._code):
            return []
        fresh = []
        for finding in scan(self._code, name, minimum=self.minimum, rules=self.rules):
            line = finding.line + self._begin
            if (line, finding.rule) not in self._seen:
                self._seen.add((line, finding.rule))
                fresh.append(
                    Finding(
                        finding.rule, finding.cwe, finding.severity, line, finding.column, finding.why, finding.safer,
                        finding.language,
                    )
                )  # fmt: skip
        return fresh
