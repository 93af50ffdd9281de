"""Server-sent events, and requests that end when their client hangs up or its key is revoked."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from herd.serve.errors import as_api_error, late
from herd.serve.gate import Share
from herd.serve.job import Job

T = TypeVar("T")
_PING = 5.0  # seconds without an event after which a comment says that the reply is still being made
_RESPONSES, _ANTHROPIC = "/v1/responses", "/v1/messages"  # whose events have names
_WATCH = 1.0  # seconds between looks at whether a key still holds


@contextlib.asynccontextmanager
async def in_time(share: Share, most: float | None, body: Any) -> AsyncIterator[None]:
    """ApiError when a request's time is up, its own or the server's `most`, counted from when it came."""
    asked = getattr(body, "timeout", None)
    allowed = [seconds for seconds in (asked, most) if seconds is not None and seconds > 0]
    left = None if not allowed else min(allowed) - (time.monotonic() - share.begun)
    try:
        async with asyncio.timeout(left):
            yield
    except TimeoutError:
        raise late() from None


async def unless_gone(request: Request, share: Share, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up or its key is revoked."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        while not task.done():
            await asyncio.wait((task, gone), timeout=_WATCH, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not task.done():
                raise ClientDisconnect
            share.check()
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(request: Request, share: Share, work: Job) -> Response:
    """The job's events. They begin when the engine has taken it: what cannot be served is an error, not a stream."""
    parts = work.parts()
    first = asyncio.ensure_future(anext(parts))
    taken = asyncio.ensure_future(work.accepted.wait())
    try:
        await unless_gone(request, share, asyncio.wait((first, taken), return_when=asyncio.FIRST_COMPLETED))
        if first.done() and (error := first.exception()) is not None:
            raise error
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await parts.aclose()  # type: ignore[attr-defined]
        raise
    finally:
        taken.cancel()
    events = _events(work.chunks(_rejoined(first, parts)), share, request.url.path)
    kind = "application/x-ndjson" if request.url.path.startswith("/api/") else "text/event-stream"
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type=kind, headers=headers)


async def _rejoined(first: "asyncio.Future[T]", rest: AsyncIterator[T]) -> AsyncIterator[T]:
    try:
        yield await first
        async for item in rest:
            yield item
    except StopAsyncIteration:
        return
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await rest.aclose()  # type: ignore[attr-defined]


async def _events(events: AsyncIterator[dict[str, Any]], share: Share, path: str) -> AsyncIterator[bytes]:
    named, lines = path in (_RESPONSES, _ANTHROPIC), path.startswith("/api/")

    def encoded(event: dict[str, Any]) -> bytes:
        if lines:
            return msgspec.json.encode(event) + b"\n"
        if named and "type" not in event:  # an error
            event = {"type": "error", **event["error"]}
        name = b"event: " + event["type"].encode() + b"\n" if named else b""
        return name + b"data: " + msgspec.json.encode(event) + b"\n\n"

    coming: asyncio.Future[dict[str, Any]] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            await asyncio.wait((coming,), timeout=_PING)
            share.check()
            if not coming.done():
                if not lines:
                    yield b'event: ping\ndata: {"type": "ping"}\n\n' if path == _ANTHROPIC else b": ping\n\n"
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                break
            coming = None
            yield encoded(event)
    except Exception as error:
        yield encoded(as_api_error(error).shaped(path))
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]
    if not named and not lines:
        yield b"data: [DONE]\n\n"
