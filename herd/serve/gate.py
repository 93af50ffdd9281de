"""What stands before every request: who may come, how often, how much; and a line in the log for each."""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from herd.errors import ConfigError
from herd.serve.errors import ApiError, as_api_error
from herd.serve.keys import Key, KeyFile
from herd.serve.metrics import RECORD, Metrics

_LOOPBACK = {"localhost", "127.0.0.1", "::1", "[::1]"}
PATHS = frozenset(
    [
        "/",
        "/docs",
        "/health",
        "/metrics",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/moderations",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/api/chat",
        "/api/tags",
        "/api/ps",
        "/api/version",
    ]
)
_LARGE, _PACE = 256 << 10, 8e6  # bytes of a body after which all bodies together come at so many bytes a second
_OPEN_PATHS = ("/health", "/docs", "/openapi.json", "/page/")


class GateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a server. Rates are for each key, or for all clients together where there are no keys; 0 is none."""

    max_body: int = 4 << 20  # bytes
    requests_per_minute: int = 0
    concurrency: int = 0
    cors: tuple[str, ...] = ()  # origins of pages, other than the server's own, that may ask
    loopback: bool = True  # whether only this machine can reach the server
    log_prompts: bool = False
    root_path: str = ""  # before every path, as /llm
    timeout: float | None = None  # seconds of a request


class AccessLog:
    """JSON lines in a file or on standard error. A full disk costs lines, never requests."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        self._metrics = metrics
        self._file: BinaryIO = sys.stderr.buffer
        if path is not None:
            try:
                self._file = path.open("ab", buffering=0)
            except OSError as error:
                raise ConfigError(f"--log {path}: cannot be written ({error.strerror})") from error

    def write(self, record: dict[str, Any]) -> None:
        """Add a line."""
        try:
            self._file.write(msgspec.json.encode(record) + b"\n")
            self._file.flush()
        except (OSError, ValueError):
            self._metrics.log_errors.inc()


class _Meter:
    """How often and how many at a time, for each name."""

    def __init__(self) -> None:
        self._allowance: dict[str, tuple[float, float]] = {}
        self.running: dict[str, int] = {}

    def take(self, name: str, count: int, per_minute: int) -> None:
        """Count replies; ApiError when `name` has used up what a minute gives (a bucket that refills evenly)."""
        if not per_minute:
            return
        now = time.monotonic()
        left, at = self._allowance.get(name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) * per_minute / 60)
        if left < count:
            wait = int((count - left) * 60 / per_minute) + 1
            raise ApiError(
                429, f"{per_minute} replies a minute are allowed; try again in {wait} s", code="rate_limit_exceeded",
                retry_after=wait,
            )  # fmt: skip
        self._allowance[name] = (left - count, now)


class Share:
    """A user's part of the server, as a request takes it: each reply counts, by rate and while it is made."""

    def __init__(
        self, meter: _Meter, key: Key | None, keys: KeyFile | None, settings: GateSettings, client: str
    ) -> None:
        self.user = key.name if key else client
        self._name = key.name if key else ""  # without keys all clients share what there is
        self._meter, self._key, self._keys = meter, key, keys
        self._rate = (key and key.requests_per_minute) or settings.requests_per_minute
        self._most = (key and key.concurrency) or settings.concurrency
        self._claimed = 0
        self.begun = time.monotonic()
        self._kept = contextlib.ExitStack()

    def at_end(self, call: Callable[[], None]) -> None:
        """What is to be called when the request is over."""
        self._kept.callback(call)

    def claim(self, replies: int) -> None:
        """Take the place of `replies`, of which one was taken at the door; ApiError when there is none."""
        more = replies - self._claimed
        running = self._meter.running.get(self._name, 0)
        if more <= 0:
            return
        if self._most and running + more > self._most:
            raise ApiError(
                429, f"{self._most} replies at a time are allowed", code="concurrency_exceeded", retry_after=1
            )
        self._meter.take(self._name, more, self._rate)
        self._meter.running[self._name] = running + more
        self._claimed = replies

    def check(self) -> None:
        """ApiError when the key has been revoked since."""
        valid = self._keys.keys() if self._keys is not None else {}
        if self._key is not None and self._key.sha256 not in valid:
            raise ApiError(401, "the key was revoked", code="invalid_api_key")

    def release(self) -> None:
        """Give the places back, and all else that the request has."""
        self._kept.close()
        if self._claimed:
            self._meter.running[self._name] -= self._claimed
            self._claimed = 0


def share_of(scope: MutableMapping[str, Any]) -> Share:
    """The share that the gate has given a request."""
    share: Share = scope["herd.share"]
    return share


class Gate:
    """Wraps the application."""

    def __init__(
        self, app: ASGIApp, settings: GateSettings, keys: KeyFile | None, metrics: Metrics, log: AccessLog
    ) -> None:
        self._app, self._settings, self._keys, self._metrics, self._log = app, settings, keys, metrics, log
        self._meter = _Meter()
        self._next = 0.0  # when the next part of a large body is taken

    async def _paced(self, count: int) -> None:
        """Wait until so many bytes more of a large body are due: reading and decoding them holds up everybody."""
        now = time.monotonic()
        self._next = max(now, self._next) + count / _PACE
        await asyncio.sleep(self._next - now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        prefix = self._settings.root_path
        if prefix and scope["path"] == prefix:  # the page's own links begin after a slash
            await RedirectResponse(f"{prefix}/")(scope, receive, send)
            return
        if prefix and scope["path"].startswith(f"{prefix}/"):  # a proxy may pass the prefix on or take it away
            scope = {**scope, "path": scope["path"][len(prefix) :]}
        started = time.monotonic()
        record: dict[str, Any] = {
            "time": time.time(), "id": f"req_{secrets.token_hex(12)}", "method": scope["method"], "path": scope["path"],
            "client": (scope.get("client") or ("",))[0],
        }  # fmt: skip
        RECORD.set(record)
        share: Share | None = None
        status = 499  # the client went away before it was answered
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._settings.max_body:
                raise self._too_large()
            if size > _LARGE:
                await self._paced(len(message.get("body", b"")))
            return message

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = record["id"]
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_origin(headers)
            length = headers.get("content-length", "")
            if length.isascii() and length.isdecimal() and int(length) > self._settings.max_body:
                raise self._too_large()
            key = self._check_key(scope, headers)
            record["key"] = key.name if key else ""
            share = Share(self._meter, key, self._keys, self._settings, record["client"])
            scope["herd.share"] = share
            if scope["method"] == "POST":
                share.claim(1)
            await self._app(scope, counted, answered)
        except Exception as error:
            if status != 499:
                raise  # the answer has begun; all that is left is to close the connection
            await as_api_error(error).response(scope["path"])(scope, receive, answered)
        finally:
            if share is not None:
                share.release()
            seconds = time.monotonic() - started
            self._metrics.requests.labels(_known(scope), str(status)).inc()
            if scope["path"] not in ("/health", "/metrics"):
                if scope["method"] == "POST":
                    self._metrics.request_seconds.observe(seconds)
                self._log.write({**record, "status": status, "seconds": round(seconds, 4)})

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._settings.max_body:,} bytes", code="body_too_large")

    def _check_origin(self, headers: Headers) -> None:
        """Refuse pages of other sites, and on the loopback address names that a hostile site may have given it."""
        host = headers.get("host", "")
        if self._settings.loopback and _split(f"//{host}")[0] not in _LOOPBACK:
            raise ApiError(403, f"the Host is {host!r}; this server answers to localhost", code="host_not_allowed")
        origin = headers.get("origin")
        if origin and _split(origin)[1] != host and origin not in self._settings.cors:
            raise ApiError(
                403, f"pages of {origin!r} may not ask this server; allow them with --cors", code="origin_not_allowed"
            )

    def _check_key(self, scope: MutableMapping[str, Any], headers: Headers) -> Key | None:
        path = scope["path"]
        if self._keys is None or path == "/" or path.startswith(_OPEN_PATHS) or scope["method"] == "OPTIONS":
            return None
        kind, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret if kind.lower() == "bearer" else headers.get("x-api-key", "")  # OpenAI's way, Anthropic's
        key = self._keys.find(secret.strip()) if secret else None
        if key is None:
            raise ApiError(401, "give a valid key: Authorization: Bearer KEY", code="invalid_api_key")
        return key


def _split(url: str) -> tuple[str, str]:
    """Host and network location of a URL; empty for one that is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _known(scope: MutableMapping[str, Any]) -> str:
    """The path for the metrics: only those that exist, so that strangers cannot make new series."""
    return scope["path"] if scope["path"] in PATHS else "other"
