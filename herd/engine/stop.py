"""Stop strings: end a stream of text before the first of them, and never show the beginning of one."""


class StopStrings:
    """Feed text in pieces; what comes back is safe to show."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that is certain, and whether a stop string has been reached."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            return self._held[: min(found)], True
        keep = max(_beginning(stop, self._held) for stop in self._stops)
        certain = len(self._held) - keep
        text, self._held = self._held[:certain], self._held[certain:]
        return text, False

    def finish(self) -> str:
        """What was held back when the stream ended without a stop string."""
        text, self._held = self._held, ""
        return text


def _beginning(stop: str, text: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, short of all of it."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0
