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
        keep = max(
            (
                n
                for stop in self._stops
                for n in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:n])
            ),
            default=0,
        )
        certain = len(self._held) - keep
        text, self._held = self._held[:certain], self._held[certain:]
        return text, False

    def finish(self) -> str:
        """What was held back when the stream ended without a stop string."""
        text, self._held = self._held, ""
        return text
