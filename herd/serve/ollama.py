"""Ollama's API, as far as its chat clients need it: /api/chat, /api/tags, /api/version."""

import datetime
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from herd.engine.agent import Part
from herd.errors import RequestError
from herd.serve.chat_completions import ChatJob
from herd.serve.gate import Share
from herd.serve.job import told
from herd.serve.models import Card
from herd.serve.reply import ensure_finished
from herd.serve.schema import (
    Body,
    CalledFunction,
    CallPart,
    ChatMessage,
    ChatRequest,
    Inner,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    ToolSpec,
)
from herd.serve.served import Served

_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed", "stop": "stop",
    "num_predict": "max_tokens", "repeat_penalty": "repetition_penalty", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}  # fmt: skip


class OllamaFunction(Inner, frozen=True, kw_only=True):
    """A call's function."""

    name: str
    arguments: dict[str, Any] | None = None


class OllamaCall(Inner, frozen=True, kw_only=True):
    """A call that the model made earlier."""

    function: OllamaFunction


class OllamaMessage(Inner, frozen=True, kw_only=True):
    """A turn."""

    role: str
    content: str | None = None
    tool_calls: list[OllamaCall] | None = None
    images: list[Any] | None = None


class OllamaRequest(Body, frozen=True, kw_only=True):
    """POST /api/chat. Options that are not about sampling do nothing here."""

    messages: list[OllamaMessage]
    model: str | None = None
    stream: bool | None = None  # default: true
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    tools: list[ToolSpec] | None = None
    keep_alive: Any = None
    think: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    dimensions: Any = None
    raw: Any = None
    truncate: Any = None
    shift: Any = None


class OllamaJob(ChatJob):
    """A chat completion, asked for and told in Ollama's words."""

    def __init__(self, served: Served, body: OllamaRequest, share: Share) -> None:
        super().__init__(served, _translated(body), share)
        self._begun = time.monotonic()

    async def whole(self, parts: AsyncIterator[Part]) -> dict[str, Any]:
        """The answer in one object."""
        text, calls, last = "", [], {}
        async for chunk in self.chunks(parts):
            text += chunk["message"]["content"]
            calls += chunk["message"].get("tool_calls", [])
            last = chunk
        message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        return {**last, "message": message}

    async def chunks(self, parts: AsyncIterator[Part]) -> AsyncIterator[dict[str, Any]]:
        """The lines of a stream."""
        first = 0.0
        async for part in parts:
            ensure_finished(part.reason)
            first = first or time.monotonic()
            calls = []
            if part.call is not None and not part.ours:
                calls = [{"function": {"name": part.call.name, "arguments": part.call.arguments}}]
            if part.text or calls:
                yield self._line(part.text, calls)
            if part.usage is not None:
                now = time.monotonic()
                last = {
                    **self._line("", []), "done": True, "done_reason": part.reason,
                    "total_duration": _nanoseconds(now - self._begun), "load_duration": 0,
                    "prompt_eval_count": part.usage.prompt, "prompt_eval_duration": _nanoseconds(first - self._begun),
                    "eval_count": part.usage.completion, "eval_duration": _nanoseconds(now - first),
                }  # fmt: skip
                yield told(last, self.watch, self.check)

    def _line(self, text: str, calls: list[Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        return {"model": self.served.name, "created_at": _time(time.time()), "message": message, "done": False}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _translated(body: OllamaRequest) -> ChatRequest:
    """The request in OpenAI's words. Calls and results have no ids in Ollama's: they follow each other."""
    messages, waiting = [], []
    for i, message in enumerate(body.messages):
        where = f"messages[{i}]"
        if message.images:
            raise RequestError(f"{where}.images: this model reads text only", param=f"{where}.images")
        if message.role not in ("system", "user", "assistant", "tool"):
            raise RequestError(
                f"{where}.role is {message.role!r}; expected system, user, assistant or tool", param=f"{where}.role"
            )
        calls = [
            CallPart(id=f"{i}.{k}", function=CalledFunction(name=call.function.name, arguments=msgspec.json.encode(call.function.arguments or {}).decode()))
            for k, call in enumerate(message.tool_calls or ())
        ]  # fmt: skip
        waiting += [call.id for call in calls]
        asked = waiting.pop(0) if message.role == "tool" and waiting else None
        messages.append(
            ChatMessage(role=message.role, content=message.content or "", tool_calls=calls or None, tool_call_id=asked)  # type: ignore[arg-type]
        )
    options = {_SAMPLING[name]: value for name, value in (body.options or {}).items() if name in _SAMPLING}
    if isinstance(options.get("max_tokens"), int) and options["max_tokens"] < 0:
        del options["max_tokens"]  # -1 is no limit
    form: Any = None
    if isinstance(body.format, dict):
        form = JsonSchemaFormat(json_schema=JsonSchema(schema=body.format))
    elif body.format:
        form = JsonObjectFormat()
    made = ChatRequest(messages=messages, stream=body.stream, tools=body.tools, response_format=form)
    try:
        return msgspec.convert({**msgspec.structs.asdict(made), **options}, ChatRequest)
    except msgspec.ValidationError as error:
        raise RequestError(f"options: {error}", param="options") from error


def tags(cards: Sequence[Card]) -> dict[str, Any]:
    """The list of models. A name without a tag has `latest`, as Ollama's own: clients add it, then look for the name."""
    details = {"format": "", "family": "llama", "families": ["llama"], "parameter_size": "", "quantization_level": ""}
    names = [(card.name if ":" in card.name else f"{card.name}:latest", card) for card in cards]
    return {
        "models": [
            {"name": name, "model": name, "modified_at": _time(card.created), "size": card.needs, "digest": "", "details": details}
            for name, card in names
        ]
    }  # fmt: skip


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")
