"""How long work tells how far it is: one shape of call for every room; `cli` draws it."""

from typing import Protocol


class Progress(Protocol):
    """Called with what is being done, how much of it is done, how much there is (0: unknown) and a short remark."""

    def __call__(self, what: str, done: int, total: int, /, note: str = "") -> None:
        """Called from the thread that does the work, as often as it likes."""
        ...


def silent(_what: str, _done: int, _total: int, /, note: str = "") -> None:
    """Tell nobody."""
