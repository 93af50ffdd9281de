"""The routes: HTTP requests -> checked bodies -> replies, whole or streamed."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
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
from herd.serve.served import Served, check_model
from herd.serve.stream import stream, unless_gone
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
    """The endpoints. `served` is None while the model loads."""

    def __init__(self, metrics: Metrics, settings: GateSettings) -> None:
        self.served: Served | None = None
        self.metrics, self._settings = metrics, settings

    def _ready(self, name: str | None = None) -> Served:
        if self.served is None:
            raise ApiError(503, "the model is being loaded", code="loading", retry_after=RETRY_AFTER)
        if not self.served.engine.healthy:
            raise ApiError(503, "the engine has stopped", code="stopped")
        check_model(self.served, name)
        return self.served

    async def health(self, _: Request) -> Response:
        """Whether requests can be served."""
        served = self._ready()
        tools = {"tools_left_out": served.left_out} if served.left_out else {}
        return _Json({"status": "ok", "model": served.name, "version": __version__, **tools})

    async def prometheus(self, _: Request) -> Response:
        """Metrics."""
        if self.served is not None:
            self.metrics.observe(self.served.engine)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, _: Request) -> Response:
        """The one model, in OpenAI's list."""
        return _Json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The model by its name."""
        check_model(self._ready(), request.path_params["name"])
        return _Json(self._model())

    def _model(self) -> dict[str, Any]:
        served = self._ready()
        return {
            "id": served.name, "object": "model", "created": served.created, "owned_by": "herd",
            "context_length": served.engine.max_length,
            "tools": [{"name": t.name, "description": t.description} for t in served.toolbox.tools],
            "preset": {
                "system": served.preset.system, **served.preset.params(),
            },
        }  # fmt: skip

    async def chat(self, request: Request) -> Response:
        """Chat completions."""
        return await self._generate(request, ChatRequest, ChatJob)

    async def completions(self, request: Request) -> Response:
        """Completions."""
        return await self._generate(request, CompletionRequest, CompletionJob)

    async def embeddings(self, request: Request) -> Response:
        """Embeddings."""
        body = await self._body(request, EmbeddingsRequest)
        served, share = self._ready(body.model), share_of(request.scope)
        work = await served.pools.run("prompt", share.user, lambda: EmbeddingJob(served, body))
        share.claim(work.replies)
        return _Json(await unless_gone(request, share, work.whole()))

    async def moderations(self, request: Request) -> Response:
        """Moderations."""
        body = await self._body(request, ModerationsRequest)
        served, share = self._ready(), share_of(request.scope)
        texts = texts_of(body)
        return _Json(await served.pools.run("prompt", share.user, lambda: moderated(served, texts)))

    async def responses(self, request: Request) -> Response:
        """Responses."""
        return await self._generate(request, ResponsesRequest, ResponseJob)

    async def messages(self, request: Request) -> Response:
        """Anthropic's messages."""
        return await self._generate(request, MessagesRequest, MessagesJob)

    async def count_tokens(self, request: Request) -> Response:
        """How many tokens Anthropic's messages are."""
        body = await self._body(request, MessagesRequest)
        served, share = self._ready(body.model), share_of(request.scope)

        def count() -> int:
            turns = served.agent().turns(
                with_preset(served, anthropic.conversation(body)), SamplingParams(), anthropic.tools_of(served, body)
            )
            return len(turns.prompt(turns.messages))

        return _Json({"input_tokens": await served.pools.run("prompt", share.user, count)})

    async def ollama_chat(self, request: Request) -> Response:
        """Ollama's chat."""
        return await self._generate(request, OllamaRequest, OllamaJob, streams=True)

    async def ollama_tags(self, _: Request) -> Response:
        """The models, in Ollama's list."""
        return _Json(ollama.tags(self._ready()))

    async def ollama_version(self, _: Request) -> Response:
        """The version, for Ollama's clients."""
        return _Json({"version": __version__})

    async def tokenize(self, request: Request) -> Response:
        """Text or messages -> tokens."""
        body = await self._body(request, TokenizeRequest)
        served = self._ready(body.model)
        if (body.text is None) == (body.messages is None):
            raise ApiError(400, "give one of text and messages", param="text")

        def encode() -> list[int]:
            if body.text is not None:
                tokenizer = served.engine.tokenizer
                return encode_special(tokenizer, body.text) if body.special else tokenizer.encode(body.text)
            return served.agent().format.encode(conversation(body.messages or [])).tokens

        tokens = await served.pools.run("prompt", share_of(request.scope).user, encode)
        return _Json({"tokens": tokens, "count": len(tokens)})

    async def detokenize(self, request: Request) -> Response:
        """Tokens -> text."""
        body = await self._body(request, DetokenizeRequest)
        served = self._ready(body.model)
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
        served, share = self._ready(body.model), share_of(request.scope)
        work = await served.pools.run("prompt", share.user, lambda: job(served, body, share.user))
        share.claim(work.replies)
        if not (streams if body.stream is None else body.stream):
            return _Json(await unless_gone(request, share, work.whole(work.parts())))
        return await stream(request, share, work)


def create_app(
    load: Callable[[Metrics], Served],
    settings: GateSettings,
    *,
    keys: KeyFile | None = None,
    log: Path | None = None,
    metrics: Metrics | None = None,
    ready_first: bool = False,
    on_ready: Callable[[Served], None] = lambda _: None,
    on_failure: Callable[[BaseException], None] = lambda _: None,
) -> Gate:
    """The application. `load` makes the model on a thread of its own while /health already answers; with `ready_first`
    nothing answers before, as it must be where others listen on the same port.
    """
    metrics = metrics or Metrics()
    api = Api(metrics, settings)

    def start() -> None:
        try:
            api.served = load(metrics)
        except BaseException as error:
            on_failure(error)
        else:
            on_ready(api.served)

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
            if api.served is not None:
                await asyncio.to_thread(api.served.close)

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
        post("/v1/messages/count_tokens", api.count_tokens), post("/api/chat", api.ollama_chat), get("/api/tags", api.ollama_tags),
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
