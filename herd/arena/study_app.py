"""A study over HTTP: each rater's own link leads to a page with two nameless replies and a scale of seven."""

import asyncio
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from herd.arena.app import PAGE, Json, SameSite, error_answer, read_body
from herd.arena.rounds import RoundError
from herd.arena.study import Study
from herd.errors import ConfigError


class _Rate(msgspec.Struct, forbid_unknown_fields=True):
    rater: str
    item: int
    value: int


def create_study_app(study: Study, shared: Path, *, loopback: bool = True) -> ASGIApp:
    """The application. `shared` is the folder of what all pages of herd use."""

    def rater(token: str) -> str:
        name = study.rater(token)
        if name is None:
            raise RoundError(403, "link", "this is no rater's link")
        return name

    async def index(request: Request) -> Response:
        rater(request.query_params.get("rater", ""))
        return FileResponse(PAGE / "study.html", headers={"Cache-Control": "no-cache"})

    async def item(request: Request) -> Response:
        name = rater(request.query_params.get("rater", ""))
        return Json(await asyncio.to_thread(study.next, name), headers={"Cache-Control": "no-store"})

    async def rate(request: Request) -> Response:
        body = await read_body(request, _Rate)
        name = rater(body.rater)
        try:
            await asyncio.to_thread(study.rate, name, body.item, body.value)
        except ConfigError as error:
            raise RoundError(400, "rating", str(error)) from error
        return Json(await asyncio.to_thread(study.next, name))

    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, RoundError)
        return error_answer(error.status, error.code, str(error))

    routes = [
        Route("/", index), Route("/api/item", item), Route("/api/rate", rate, methods=["POST"]),
        Mount("/page", StaticFiles(directory=shared)), Mount("/arena", StaticFiles(directory=PAGE)),
    ]  # fmt: skip
    return SameSite(Starlette(routes=routes, exception_handlers={RoundError: known}), loopback=loopback)
