"""POST /v1/responses: the Responses API over the same replies. Nothing is stored between requests."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from herd.engine.agent import Offer, Part
from herd.engine.grammar import json_grammar
from herd.engine.request import Usage
from herd.serve.chat_completions import add, conversation
from herd.serve.errors import ApiError
from herd.serve.reply import ensure_finished, reply, sampling
from herd.serve.response_events import Output
from herd.serve.schema import (
    CalledFunction,
    CallItem,
    CallOutputItem,
    CallPart,
    ChatMessage,
    ChosenItem,
    JsonObjectFormat,
    MessageItem,
    ResponsesRequest,
    SchemaText,
)
from herd.serve.served import Served, limits
from herd.text.messages import Message, Tool


class ResponseJob:
    """One request, checked and ready to run."""

    def __init__(self, served: Served, body: ResponsesRequest) -> None:
        self.served, self.body = served, body
        self.params = sampling(served, body, max_tokens=body.max_output_tokens)
        self.messages = _messages(body)
        self.offer = _offer(body)
        form = body.text.format if body.text else None
        self.grammar: str | None = None
        if isinstance(form, JsonObjectFormat):
            self.grammar = json_grammar()
        if isinstance(form, SchemaText):
            self.grammar = json_grammar(form.schema)
        self.id = f"resp_{secrets.token_hex(16)}"
        self.created = int(time.time())

    def parts(self) -> AsyncIterator[Part]:
        """The reply as it comes."""
        return reply(self.served, self.messages, self.params, self.offer, limits(self.served), self.grammar)

    async def whole(self, parts: AsyncIterator[Part]) -> dict[str, Any]:
        """The answer in one object."""
        last: dict[str, Any] = {}
        async for event in self.chunks(parts):
            last = event
        answer: dict[str, Any] = last["response"]
        return answer

    async def chunks(self, parts: AsyncIterator[Part]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream; the last one has the whole answer."""
        output, total, reason = Output(), Usage(0, 0, 0), None
        yield output.event("created", response=self._response("in_progress", [], None))
        yield output.event("in_progress", response=self._response("in_progress", [], None))
        async for part in parts:
            ensure_finished(part.reason)
            for event in output.push(part):
                yield event
            if part.usage is not None:
                total, reason = add(total, part.usage), part.reason
        status = "incomplete" if reason == "length" else "completed"
        for event in output.close(status):
            yield event
        yield output.event(status, response=self._response(status, output.items, total))

    def _response(self, status: str, output: list[dict[str, Any]], total: Usage | None) -> dict[str, Any]:
        body = self.body
        form = body.text.format if body.text and body.text.format else None
        choice = body.tool_choice
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens, "model": self.served.name,
            "output": output, "parallel_tool_calls": self.offer.parallel, "previous_response_id": None,
            "temperature": self.params.temperature, "top_p": self.params.top_p,
            "text": {"format": msgspec.to_builtins(form) if form else {"type": "text"}},
            "tool_choice": msgspec.to_builtins(choice) if choice else "auto",
            "tools": msgspec.to_builtins(body.tools or []), "truncation": "disabled", "metadata": body.metadata or {},
            "store": False, "user": body.user,
            "usage": None if total is None else {
                "input_tokens": total.prompt, "input_tokens_details": {"cached_tokens": total.cached, "cache_write_tokens": 0},
                "output_tokens": total.completion, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": total.prompt + total.completion,
            },
        }  # fmt: skip


_ITEMS = MessageItem | CallItem | CallOutputItem


def _items(given: Sequence[dict[str, Any]]) -> list[Any]:
    """Input items. Those that clients echo back whole are taken for what they mean: fields that are null are left out."""
    found: list[Any] = []
    for i, item in enumerate(given):
        where = f"input[{i}]"
        kind = item.get("type", "message")
        if kind == "reasoning":
            continue
        try:
            given_fields = {name: value for name, value in item.items() if value is not None}
            found.append(msgspec.convert({"type": kind, **given_fields}, type=_ITEMS))
        except msgspec.ValidationError as error:
            raise ApiError(400, f"{where}: {error}", param=where) from error
    return found


def _messages(body: ResponsesRequest) -> list[Message]:
    """The conversation that a request means, by way of the chat messages that say the same."""
    chat: list[ChatMessage] = []
    if body.instructions is not None:
        chat.append(ChatMessage(role="system", content=body.instructions))
    if isinstance(body.input, str):
        chat.append(ChatMessage(role="user", content=body.input))
        return conversation(chat)
    for item in _items(body.input):
        if isinstance(item, MessageItem):
            chat.append(ChatMessage(role=item.role, content=item.content))
        elif isinstance(item, CallOutputItem):
            chat.append(ChatMessage(role="tool", content=item.output, tool_call_id=item.call_id))
        else:
            call = CallPart(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
            if chat and chat[-1].role == "assistant":  # text and calls of one turn
                before = chat.pop()
                chat.append(msgspec.structs.replace(before, tool_calls=[*(before.tool_calls or ()), call]))
            else:
                chat.append(ChatMessage(role="assistant", tool_calls=[call]))
    return conversation(chat)


def _offer(body: ResponsesRequest) -> Offer:
    tools = tuple(Tool(t.name, t.description or "", t.parameters or {}) for t in body.tools or ())
    choice = body.tool_choice
    wanted = choice.name if isinstance(choice, ChosenItem) else choice or "auto"
    if isinstance(choice, ChosenItem) and wanted not in {tool.name for tool in tools}:
        raise ApiError(400, f"tool_choice names {wanted!r}, which is not among tools", param="tool_choice")
    if wanted == "required" and not tools:
        raise ApiError(400, "tool_choice is required, and there are no tools", param="tool_choice")
    return Offer(tools, wanted, True if body.parallel_tool_calls is None else body.parallel_tool_calls)
