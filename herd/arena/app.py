"""The arena over HTTP: the page, its questions, votes and ranking. What both pages of herd need is passed in by `cli`."""

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from herd.arena.kinds import KINDS
from herd.arena.rounds import Arena, Round, RoundError

PAGE = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_COOKIE, _YEAR = "herd-arena", 365 * 86400
_LARGEST = 100_000  # bytes of a body
_LANGUAGES = ("de", "en", "es", "fr", "hi", "it", "pt", "th", "")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Ask(msgspec.Struct, forbid_unknown_fields=True):
    question: str | None = None
    round: str | None = None  # to go on with


class _Vote(msgspec.Struct, forbid_unknown_fields=True):
    round: str
    winner: str


class Voters:
    """Cookies that this arena gave out: a random number and its signature. The number alone is kept beside votes."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def _signed(self, number: str) -> str:
        return f"{number}.{hmac.new(self._secret, number.encode(), hashlib.sha256).hexdigest()}"

    def of(self, request: Request) -> str | None:
        """The voter's number; None without a cookie of this arena."""
        given = request.cookies.get(_COOKIE, "")
        number = given.partition(".")[0]
        return number if number and hmac.compare_digest(given.encode(), self._signed(number).encode()) else None

    def welcome(self, request: Request, response: Response) -> None:
        """Give a cookie to who has none."""
        if self.of(request) is None:
            response.set_cookie(
                _COOKIE, self._signed(secrets.token_hex(16)), max_age=_YEAR, httponly=True, samesite="strict",
                secure=request.url.scheme == "https",
            )  # fmt: skip


class Json(Response):
    """A body of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """To bytes."""
        return msgspec.json.encode(content)


def error_answer(status: int, code: str, message: str) -> Response:
    """An error in one line."""
    headers = {"Retry-After": "10"} if status in (429, 503) else None
    return Json({"error": {"message": message, "code": code}}, status, headers)


async def read_body(request: Request, kind: type[Any]) -> Any:
    """The body, checked; RoundError for one that is none."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _LARGEST:
            raise RoundError(413, "too_long", f"the body is larger than {_LARGEST:,} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RoundError(400, "body", f"the body is not what was expected: {error}") from error


class SameSite:
    """Refuses pages of other sites, and on the loopback address names that a hostile site may have given it."""

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._loopback and _netloc(f"//{host}")[0] not in _LOOPBACK:
            refused = f"the Host is {host!r}; this arena answers to localhost"
        elif origin and _netloc(origin)[1] != host:
            refused = f"pages of {origin!r} may not ask this arena"
        else:
            await self._app(scope, receive, _guarded(send))
            return
        await error_answer(403, "site", refused)(scope, receive, send)


def _netloc(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _guarded(send: Send) -> Send:
    async def answered(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"], (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
                (b"content-security-policy", _POLICY.encode()),
            ]  # fmt: skip
        await send(message)

    return answered


class Api:
    """The endpoints of an open arena."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._voters = arena, Voters(arena.secret)

    async def index(self, request: Request) -> Response:
        """The page, and a cookie."""
        response = FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
        self._voters.welcome(request, response)
        return response

    async def about(self, _: Request) -> Response:
        """What the page must know before it asks: nothing of who answers."""
        return Json({"stored": self._arena.prompts is not None, "longest": self._arena.settings.longest})

    async def health(self, _: Request) -> Response:
        """Whether it runs."""
        return Json({"status": "ok"})

    def _voter(self, request: Request) -> str:
        voter = self._voters.of(request)
        if voter is None:
            raise RoundError(403, "cookie", "open the page first, and let it keep a cookie")
        return voter

    async def ask(self, request: Request) -> Response:
        """A question, of a new round or of one that goes on; its two answers as server-sent events."""
        voter, body = self._voter(request), await read_body(request, _Ask)
        address = request.client.host if request.client else ""
        round_ = self._arena.begin(voter, address, body.question, body.round)
        return StreamingResponse(
            self._events(round_), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def _events(self, round_: Round) -> AsyncIterator[bytes]:
        yield _event({"round": round_.id, "question": round_.question})
        async with contextlib.aclosing(self._arena.answers(round_)) as answers:
            async for left, right in answers:
                yield _event({"left": left, "right": right})
        yield _event({"failed": True} if round_.failed else {"ended": True})

    async def vote(self, request: Request) -> Response:
        """A vote; the names of the two."""
        body = await read_body(request, _Vote)
        return Json(await self._arena.vote(self._voter(request), body.round, body.winner))

    async def ranking(self, request: Request) -> Response:
        """The ranking, of one `language` or `kind` or all."""
        language, kind = request.query_params.get("language"), request.query_params.get("kind")
        if language not in (None, *_LANGUAGES) or kind not in (None, "", *KINDS):
            raise RoundError(400, "category", "no such language or kind")
        return Json(await self._arena.ranking(language, kind))

    async def log(self, _: Request) -> Response:
        """The public log: every model, version, withdrawal and exclusion."""
        return Json(await self._arena.ledger())


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def create_app(arena: Arena, shared: Path, *, loopback: bool = True) -> ASGIApp:
    """The application. `shared` is the folder of what both pages of herd use: styles, Markdown, vendored modules."""
    api = Api(arena)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await arena.close()

    def route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
        return Route(path, handler, methods=[method])

    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, RoundError)
        return error_answer(error.status, error.code, str(error))

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_answer(error.status_code, "http", f"{request.method} {request.url.path}: {error.detail}")

    async def gone(_: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    routes = [
        route("/", api.index), route("/health", api.health), route("/api/about", api.about), route("/api/ask", api.ask, "POST"),
        route("/api/vote", api.vote, "POST"), route("/api/ranking", api.ranking), route("/api/log", api.log),
        Mount("/page", StaticFiles(directory=shared)), Mount("/arena", StaticFiles(directory=PAGE)),
    ]  # fmt: skip
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={RoundError: known, HTTPException: wrong, ClientDisconnect: gone}
    )  # fmt: skip
    return SameSite(app, loopback=loopback)
