"""How many tokens of prompts a step computes beside replies that somebody reads as they come, by what steps took lately."""

STRETCH = 2.0
"""How much longer than without prompts such a step may take. Prompts then have half of the time."""
_FIRST, _LEAST = 32, 2  # tokens: before anything was measured, and at least
_PAUSES = (
    2,
    16,
)  # after so many steps with prompts comes one without: few while it is not known well what replies alone take
_WEIGHT = 0.3  # of the latest step
_SLOWER, _QUICKER = 0.1, 0.7  # of one without prompts that took longer, or less: others only ever take time away


class Balance:
    """Learns what a step takes without prompts, and what a prompt's token adds; that grows with its depth, so the latest counts."""

    def __init__(self) -> None:
        self._alone: float | None = None  # seconds
        self._token: float | None = None
        self._last, self._mixed, self._pause = _FIRST, 0, _PAUSES[0]

    def tokens(self) -> int:
        """Tokens of prompts for the next step."""
        if self._mixed >= self._pause:
            self._mixed = 0
            return 0
        if self._alone is None or self._token is None:
            return _FIRST
        fit = (STRETCH - 1) * self._alone / max(self._token, 1e-9)
        return max(_LEAST, min(int(fit), 2 * self._last))

    def learn(self, prompts: int, seconds: float) -> None:
        """A step with replies and so many tokens of prompts has taken `seconds`."""
        if not prompts:
            before = seconds if self._alone is None else self._alone
            self._pause = _PAUSES[0] if seconds < before / 1.5 else min(2 * self._pause, _PAUSES[1])
            self._mixed, self._alone = 0, _mixed(before, seconds, _SLOWER if seconds > before else _QUICKER)
            return
        self._mixed += 1
        self._last = max(prompts, _LEAST)
        if self._alone is not None:
            self._token = _mixed(self._token, max(0.0, seconds - self._alone) / prompts)


def _mixed(before: float | None, now: float, weight: float = _WEIGHT) -> float:
    return now if before is None else before + weight * (now - before)
