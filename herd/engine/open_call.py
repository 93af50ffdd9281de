"""The call that a reply is in the middle of: its arguments are told while they are written, before the call is whole.

Only for replies whose calls are held to their schemas, where what begins as a call will be one.
"""

from herd.text.call_spellings import FLAT, OUTER, TAGGED
from herd.text.json_calls import JsonEnd
from herd.text.tool_calls import ReplyParser

# Beginnings of calls up to their arguments, alone, in tags, or in OpenAI's shape.
_BEGINNINGS = (
    FLAT.named(before=rf"(<tool_call>\s*)?({OUTER})?", after=rf"{FLAT.middle}(?=\{{)"),
    TAGGED.named(after=r"\s*(?=\{)"),
)


class OpenCall:
    """Follows one reply. `known` are the names that may be called, `quiet` those whose calls are told only when whole."""

    def __init__(self, known: frozenset[str], quiet: frozenset[str]) -> None:
        self._told = known - quiet
        self._end: JsonEnd | None = None
        self._whole = False

    @property
    def open(self) -> bool:
        """Whether a call has begun to be told."""
        return self._end is not None

    def push(self, text: str) -> str:
        """The part of the open call's arguments that `text` is."""
        if self._end is None or self._whole:
            return ""
        for i, character in enumerate(text):
            if self._end.push(character):
                self._whole = True
                return text[: i + 1]
        return text

    def look(self, parser: ReplyParser) -> tuple[str, str] | None:
        """The name of a call that begins in what the parser holds back, and its arguments so far."""
        if self.open or not parser.begins.startswith(("{", "<")):
            return None
        found = next((match for begin in _BEGINNINGS if (match := begin.match(parser.begins))), None)
        if found is None or found["name"] not in self._told:
            return None
        self._end, self._whole = JsonEnd(), False
        return found["name"], self.push(parser.held[found.end() :])

    def close(self) -> bool:
        """The call is whole, or is none after all. Whether it was open."""
        was, self._end = self.open, None
        return was
