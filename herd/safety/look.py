"""A few checks made together on a thread of their own, with a time limit. A check that fails is itself a finding."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from herd.errors import first_line

_MOST_STUCK = 256  # looks at a time, those included that were given up and have not ended
_room = threading.BoundedSemaphore(_MOST_STUCK)
Where = Literal["input", "output", "call", "result"]


class Fired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a check saw. `action` is what is done about it; `failure` says why a check could not be made. `index` is the reply's."""

    where: Where
    check: str
    action: str
    score: float | None = None
    detail: str = ""
    failure: str = ""
    index: int = 0


@dataclass
class Job:
    """A check about to be made: `failed` is what is done where it fails."""

    name: str
    where: Where
    failed: str
    work: Callable[[], Sequence[Fired]]

    def failure(self, why: str) -> Fired:
        """The finding that it could not be made."""
        return Fired(where=self.where, check=self.name, action=self.failed, failure=why)


@dataclass
class Look:
    """Checks that are made one after the other. It never raises: what goes wrong is found in the result."""

    jobs: Sequence[Job]
    seconds: float
    _found: list[Fired] = field(default_factory=list)
    _done: int = 0

    def start(self) -> "Future[list[Fired]]":
        """Begin, on a thread that nobody waits for at the end of the process."""
        future: Future[list[Fired]] = Future()
        if not _room.acquire(blocking=False):
            future.set_result([job.failure("too many checks hang") for job in self.jobs])
            return future
        future.set_running_or_notify_cancel()  # who stops waiting takes nothing from the thread
        threading.Thread(target=self._run, args=(future,), name="herd-shield", daemon=True).start()
        return future

    def wait(self) -> list[Fired]:
        """The findings, waited for on the caller's thread."""
        future = self.start()
        try:
            return future.result(self.seconds)
        except TimeoutError:
            return self.late()

    def late(self) -> list[Fired]:
        """The findings when the time is up: those so far, and that the rest was not made."""
        done = self._done
        return [*self._found, *(job.failure(f"took longer than {self.seconds:g} s") for job in self.jobs[done:])]

    def _run(self, future: Any) -> None:
        try:
            for job in self.jobs:
                try:
                    found: Sequence[Fired] = job.work()
                except BaseException as error:
                    found = [job.failure(f"{type(error).__name__}: {first_line(error)}")]
                self._found += found
                self._done += 1
        finally:
            _room.release()
            future.set_result(list(self._found))
