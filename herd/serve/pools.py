"""Threads for work that would hold up the event loop: a few for each kind of work, and of those a share for each user."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
# kind -> threads, and how many of them one user may have at a time
_KINDS = {"prompt": (3, 1), "tool": (32, 4)}


class Pools:
    """Runs functions on threads. Kinds do not wait for each other, and one user's work never takes all threads of a kind."""

    def __init__(self) -> None:
        self._threads = {kind: ThreadPoolExecutor(count, f"herd-{kind}") for kind, (count, _) in _KINDS.items()}
        self._shares: dict[tuple[str, str], tuple[asyncio.Semaphore, int]] = {}

    async def run(self, kind: str, user: str, work: Callable[[], T]) -> T:
        """The result of `work`. A caller that is cancelled leaves; the thread is counted as the user's until it is done."""
        loop, key = asyncio.get_running_loop(), (kind, user)
        share, users = self._shares.get(key, (None, 0))
        share = share or asyncio.Semaphore(_KINDS[kind][1])
        self._shares[key] = share, users + 1
        try:
            await share.acquire()
        except BaseException:
            self._left(key)
            raise

        def done() -> None:
            share.release()
            self._left(key)

        def ended(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done)

        future = self._threads[kind].submit(work)
        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def _left(self, key: tuple[str, str]) -> None:
        """One less of a user's works; users without any are forgotten."""
        share, users = self._shares[key]
        if users == 1:
            del self._shares[key]
        else:
            self._shares[key] = share, users - 1

    def close(self) -> None:
        """Take no more work."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
