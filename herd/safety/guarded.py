"""Parts of an answer through a Shield's watch: the waiting, once for the caller's thread and once for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import closing

from herd.engine.agent import Part
from herd.engine.request import Usage
from herd.safety.look import Fired, Look
from herd.safety.watch import Watch


def guarded(watch: Watch, parts: Generator[Part], usage: Callable[[], Usage], replies: int = 1) -> Iterator[Part]:
    """What may be shown. The question is checked while the prompt is computed; `usage` is what a stopped answer has cost so far."""
    look = watch.question() if watch.asks else None
    asked = look.start() if look is not None else None

    def answered() -> None:
        if look is not None and asked is not None:
            try:
                watch.settle(asked.result(look.seconds))
            except TimeoutError:
                watch.settle(look.late())

    done: set[int] = set()
    with closing(parts):
        for part in parts:
            if asked is not None and (watch.waits or part.reason is not None):
                answered()
                asked = None
            if watch.refused:
                break
            look_at = watch.take(part)
            if look_at is not None:
                watch.settle(look_at.wait(), part.index)
            yield from watch.ready(part.index)
            if watch.stopped(part.index) and part.index not in done:
                done.add(part.index)
                if len(done) < replies:
                    yield watch.ending(part.index, Usage(0, 0, 0))
                else:
                    yield watch.ending(part.index, usage())
                    return
    if watch.refused:
        for index in range(replies):
            yield watch.ending(index, usage() if not index else Usage(usage().prompt, 0, 0))


async def aguarded(
    watch: Watch, parts: AsyncGenerator[Part], usage: Callable[[], Usage], replies: int = 1
) -> AsyncGenerator[Part]:
    """`guarded` for asyncio; a question that is refused before its prompt is computed ends the computing."""
    look = watch.question() if watch.asks else None
    asked = None if look is None else asyncio.ensure_future(_made(look))
    done: set[int] = set()
    coming: asyncio.Future[Part] | None = None
    try:
        while not watch.refused:
            coming = asyncio.ensure_future(anext(parts))
            if asked is not None and watch.waits:
                await asyncio.wait((coming, asked), return_when=asyncio.FIRST_COMPLETED)
                watch.settle(await asked)
                asked = None
                if watch.refused:
                    break
            try:
                part = await coming
            except StopAsyncIteration:
                break
            if asked is not None and part.reason is not None:
                watch.settle(await asked)
                asked = None
            if (look_at := watch.take(part)) is not None:
                watch.settle(await _made(look_at), part.index)
            for shown in watch.ready(part.index):
                yield shown
            if watch.stopped(part.index) and part.index not in done:
                done.add(part.index)
                yield watch.ending(part.index, usage() if len(done) == replies else Usage(0, 0, 0))
                if len(done) == replies:
                    return
    finally:
        left = [one for one in (coming, asked) if one is not None]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await parts.aclose()
    if watch.refused:
        for index in range(replies):
            yield watch.ending(index, usage() if not index else Usage(usage().prompt, 0, 0))


async def _made(look: Look) -> list[Fired]:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(look.start()), look.seconds)
    except TimeoutError:
        return look.late()
