"""The routes: HTTP requests -> checked bodies -> replies, whole or streamed."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from herd import __version__
from herd.engine.request import SamplingParams
from herd.errors import HerdError
from herd.serve import anthropic, ollama
from herd.serve.anthropic import MessagesJob
from herd.serve.anthropic_schema import MessagesRequest
from herd.serve.chat_completions import ChatJob
from herd.serve.completions import CompletionJob
from herd.serve.embeddings import EmbeddingJob
from herd.serve.errors import RETRY_AFTER, ApiError, as_api_error, decode
from herd.serve.gate import AccessLog, Gate, GateSettings, share_of
from herd.serve.job import Job, with_preset
from herd.serve.keys import KeyFile
from herd.serve.messages import conversation
from herd.serve.metrics import RECORD, Metrics
from herd.serve.models import Card, Models
from herd.serve.moderations import moderated, texts_of
from herd.serve.ollama import OllamaJob, OllamaRequest
from herd.serve.openapi import docs_page, openapi
from herd.serve.responses import ResponseJob
from herd.serve.responses_schema import ResponsesRequest
from herd.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    ModerationsRequest,
    TokenizeRequest,
)
from herd.serve.served import Served
from herd.serve.stream import in_time, stream, unless_gone
from herd.text.tokenizer import decode as decode_tokens
from herd.text.tokenizer import encode_special

T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
# The page loads nothing from elsewhere, and nothing that a model writes can run.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class Api:
    """The endpoints. `loaded` is None while the first model loads."""

    def __init__(self, metrics: Metrics, settings: GateSettings) -> None:
        self.loaded: Models | None = None
        self.metrics, self._settings = metrics, settings

    @property
    def _models(self) -> Models:
        if self.loaded is None:
            raise ApiError(503, "the model is being loaded", code="loading", retry_after=RETRY_AFTER)
        return self.loaded

    async def _take(self, request: Request, body: Any) -> Served:
        """The model that a body names, in memory until the request is over. It may have to be loaded first."""
        models, share = self._models, share_of(request.scope)
        async with in_time(share, self._settings.timeout, body):
            served = await unless_gone(request, share, models.take(body.model))
        share.at_end(lambda: models.give(served.name))
        RECORD.get({})["model"] = served.name
        return served

    async def _prepared(self, request: Request, served: Served, body: Any, work: Callable[[], T]) -> T:
        """What `work` gives on a thread for prompts."""
        share = share_of(request.scope)
        async with in_time(share, self._settings.timeout, body):
            return await served.pools.run("prompt", share.user, work)

    async def health(self, _: Request) -> Response:
        """Whether requests can be served."""
        models = self._models
        states = models.states
        if "stopped" in states.values():
            raise ApiError(503, "the engine has stopped", code="stopped")
        first = models.card(None)
        tools = {"tools_left_out": first.left_out} if first.left_out else {}
        each = [
            {"id": c.name, "state": states[c.name], **({"tools_left_out": c.left_out} if c.left_out else {})}
            for c in models.cards
        ]
        return _Json({"status": "ok", "model": first.name, "version": __version__, "models": each, **tools})

    async def prometheus(self, _: Request) -> Response:
        """Metrics."""
        if self.loaded is not None:
            self.loaded.observe()
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, _: Request) -> Response:
        """All models, in OpenAI's list."""
        models = self._models
        return _Json({"object": "list", "data": [_described(card, models.states) for card in models.cards]})

    async def model(self, request: Request) -> Response:
        """A model by its name."""
        models = self._models
        if not request.path_params["name"]:
            return await self.models(request)
        return _Json(_described(models.card(request.path_params["name"]), models.states))

    async def chat(self, request: Request) -> Response:
        """Chat completions."""
        return await self._generate(request, ChatRequest, ChatJob)

    async def completions(self, request: Request) -> Response:
        """Completions."""
        return await self._generate(request, CompletionRequest, CompletionJob)

    async def embeddings(self, request: Request) -> Response:
        """Embeddings."""
        body = await self._body(request, EmbeddingsRequest)
        served, share = await self._take(request, body), share_of(request.scope)
        work = await self._prepared(request, served, body, lambda: EmbeddingJob(served, body, share.begun))
        share.claim(work.replies)
        return _Json(await unless_gone(request, share, work.whole()))

    async def moderations(self, request: Request) -> Response:
        """Moderations."""
        body = await self._body(request, ModerationsRequest)
        models, texts = self._models, texts_of(body)
        user = share_of(request.scope).user
        return _Json(await models.pools.run("prompt", user, lambda: moderated(models.shield, texts)))

    async def responses(self, request: Request) -> Response:
        """Responses."""
        return await self._generate(request, ResponsesRequest, ResponseJob)

    async def messages(self, request: Request) -> Response:
        """Anthropic's messages."""
        return await self._generate(request, MessagesRequest, MessagesJob)

    async def count_tokens(self, request: Request) -> Response:
        """How many tokens Anthropic's messages are."""
        body = await self._body(request, MessagesRequest)
        served = await self._take(request, body)

        def count() -> int:
            turns = served.agent().turns(
                with_preset(served, anthropic.conversation(body)), SamplingParams(), anthropic.tools_of(served, body)
            )
            return len(turns.prompt(turns.messages))

        return _Json({"input_tokens": await self._prepared(request, served, body, count)})

    async def ollama_chat(self, request: Request) -> Response:
        """Ollama's chat."""
        return await self._generate(request, OllamaRequest, OllamaJob, streams=True)

    async def ollama_tags(self, _: Request) -> Response:
        """The models, in Ollama's list."""
        return _Json(ollama.tags(self._models.cards))

    async def ollama_loaded(self, _: Request) -> Response:
        """The models in memory, in Ollama's list."""
        models = self._models
        return _Json(ollama.tags([card for card in models.cards if models.states[card.name] == "loaded"]))

    async def ollama_version(self, _: Request) -> Response:
        """The version, for Ollama's clients."""
        return _Json({"version": __version__})

    async def tokenize(self, request: Request) -> Response:
        """Text or messages -> tokens."""
        body = await self._body(request, TokenizeRequest)
        served = await self._take(request, body)
        if (body.text is None) == (body.messages is None):
            raise ApiError(400, "give one of text and messages", param="text")

        def encode() -> list[int]:
            if body.text is not None:
                tokenizer = served.engine.tokenizer
                return encode_special(tokenizer, body.text) if body.special else tokenizer.encode(body.text)
            return served.agent().format.encode(conversation(body.messages or [])).tokens

        tokens = await self._prepared(request, served, body, encode)
        return _Json({"tokens": tokens, "count": len(tokens)})

    async def detokenize(self, request: Request) -> Response:
        """Tokens -> text."""
        body = await self._body(request, DetokenizeRequest)
        served = await self._take(request, body)
        vocab = served.engine.config.vocab
        if any(not 0 <= token < vocab for token in body.tokens):
            raise ApiError(400, f"tokens: expected numbers from 0 to {vocab - 1}", param="tokens")
        return _Json({"text": decode_tokens(served.engine.tokenizer, body.tokens)})

    async def _body(self, request: Request, kind: type[T]) -> T:
        data = await request.body()
        body: T = decode(data, kind)
        if self._settings.log_prompts:
            RECORD.get({})["body"] = msgspec.Raw(data)
        return body

    async def _generate(
        self, request: Request, kind: type[Any], job: Callable[..., Job], *, streams: bool = False
    ) -> Response:
        """A body's job done: whole, or as a stream."""
        body = await self._body(request, kind)
        served, share = await self._take(request, body), share_of(request.scope)
        work = await self._prepared(request, served, body, lambda: job(served, body, share))
        share.claim(work.replies)
        if not (streams if body.stream is None else body.stream):
            return _Json(await unless_gone(request, share, work.whole(work.parts())))
        return await stream(request, share, work)


def _described(card: Card, states: Mapping[str, str]) -> dict[str, Any]:
    """A model in OpenAI's list."""
    return {
        "id": card.name, "object": "model", "created": card.created, "owned_by": "herd", "context_length": card.context,
        "state": states[card.name], "tools": [{"name": t.name, "description": t.description} for t in card.tools],
        "preset": {"system": card.preset.system, **card.preset.params()}, "preset_applied": card.use_preset,
    }  # fmt: skip


def create_app(
    load: Callable[[Metrics], Models],
    settings: GateSettings,
    *,
    keys: KeyFile | None = None,
    log: Path | None = None,
    metrics: Metrics | None = None,
    ready_first: bool = False,
    on_ready: Callable[[Models], None] = lambda _: None,
    on_failure: Callable[[BaseException], None] = lambda _: None,
) -> Gate:
    """The application. `load` makes the models on a thread of its own while /health already answers; with `ready_first`
    nothing answers before, as it must be where others listen on the same port.
    """
    metrics = metrics or Metrics()
    api = Api(metrics, settings)

    def start() -> None:
        try:
            api.loaded = load(metrics)
        except BaseException as error:
            on_failure(error)
        else:
            on_ready(api.loaded)

    class Lifespan:
        """Loads on start, closes at the end."""

        def __init__(self, _: Starlette) -> None:
            self._thread = threading.Thread(target=start, name="herd-load", daemon=True)

        async def __aenter__(self) -> None:
            self._thread.start()
            if ready_first:
                await asyncio.to_thread(self._thread.join)

        async def __aexit__(self, *_: object) -> None:
            await asyncio.to_thread(self._thread.join)
            if api.loaded is not None:
                await asyncio.to_thread(api.loaded.close)

    async def index(_: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": _POLICY})

    async def docs(_: Request) -> Response:
        return HTMLResponse(docs_page(), headers={"Content-Security-Policy": _POLICY})

    async def spec(_: Request) -> Response:
        return _Json(openapi())

    def post(path: str, handler: Callable[[Request], Coroutine[Any, Any, Response]]) -> Route:
        return Route(path, handler, methods=["POST"])

    def get(path: str, handler: Callable[[Request], Coroutine[Any, Any, Response]]) -> Route:
        return Route(path, handler, methods=["GET"])

    routes = [
        get("/", index), get("/docs", docs), get("/openapi.json", spec), get("/health", api.health),
        get("/metrics", api.prometheus), get("/v1/models", api.models), get("/v1/models/{name:path}", api.model),
        post("/v1/chat/completions", api.chat), post("/v1/completions", api.completions),
        post("/v1/embeddings", api.embeddings), post("/v1/moderations", api.moderations), post("/v1/responses", api.responses), post("/v1/messages", api.messages),
        post("/v1/messages/count_tokens", api.count_tokens), post("/api/chat", api.ollama_chat), get("/api/tags", api.ollama_tags), get("/api/ps", api.ollama_loaded),
        get("/api/version", api.ollama_version), post("/tokenize", api.tokenize), post("/detokenize", api.detokenize),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]  # fmt: skip
    middleware = []
    if settings.cors:
        allowed = list(settings.cors)
        middleware = [Middleware(CORSMiddleware, allow_origins=allowed, allow_methods=["*"], allow_headers=["*"])]

    async def known(request: Request, error: Exception) -> Response:
        return as_api_error(error).response(request.url.path)

    async def missing(request: Request, _: Exception) -> Response:
        return ApiError(404, f"there is nothing at {request.url.path}; see /docs").response()

    async def wrong_method(request: Request, _: Exception) -> Response:
        return ApiError(405, f"{request.url.path} does not take {request.method}; see /docs").response()

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)

    app = Starlette(
        routes=routes, middleware=middleware, lifespan=Lifespan,
        exception_handlers={ApiError: known, HerdError: known, RecursionError: known, ClientDisconnect: gone, 404: missing, 405: wrong_method, 500: known},
    )  # fmt: skip
    return Gate(app, settings, keys, metrics, AccessLog(log, metrics))
