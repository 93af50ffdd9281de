"""POST /v1/responses: the Responses API over the same replies. Nothing is stored between requests."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from herd.engine.grammar import json_grammar
from herd.engine.request import Usage
from herd.serve.chat_completions import add, conversation
from herd.serve.errors import ApiError
from herd.serve.model import Offer, Part, Served, ensure_finished, limits, reply, sampling
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
from herd.text.messages import Message, Tool, ToolCall


class Response:
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
        number = -1

        def event(kind: str, **fields: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            return {"type": f"response.{kind}", "sequence_number": number, **fields}

        output: list[dict[str, Any]] = []
        yield event("created", response=self._response("in_progress", [], None))
        yield event("in_progress", response=self._response("in_progress", [], None))
        total, reason = Usage(0, 0, 0), None
        open_text: dict[str, Any] | None = None
        async for part in parts:
            ensure_finished(part.reason)
            if part.text:
                if open_text is None:
                    open_text = {"id": f"msg_{secrets.token_hex(16)}", "text": "", "at": len(output)}
                    where = {"item_id": open_text["id"], "output_index": open_text["at"], "content_index": 0}
                    yield event("output_item.added", output_index=len(output), item=_message(open_text, "in_progress"))
                    yield event("content_part.added", **where, part=_text(""))
                    output.append({})
                open_text["text"] += part.text
                yield event("output_text.delta", **where, delta=part.text, logprobs=[])
            item = _executed(*part.ran) if part.ran else _called(part.call) if part.call else None
            if (item or part.usage is not None) and open_text is not None:
                done = _message(open_text, "completed")
                yield event("output_text.done", **where, text=open_text["text"], logprobs=[])
                yield event("content_part.done", **where, part=_text(open_text["text"]))
                yield event("output_item.done", output_index=open_text["at"], item=done)
                output[open_text["at"]] = done
                open_text = None
            if item is not None:
                index = len(output)
                output.append(item)
                yield event("output_item.added", output_index=index, item={**item, "status": "in_progress"})
                if item["type"] == "function_call":
                    at = {"item_id": item["id"], "output_index": index}
                    yield event("function_call_arguments.delta", **at, delta=item["arguments"])
                    yield event("function_call_arguments.done", **at, name=item["name"], arguments=item["arguments"])
                yield event("output_item.done", output_index=index, item=item)
            if part.usage is not None:
                total, reason = add(total, part.usage), part.reason
        kind = "incomplete" if reason == "length" else "completed"
        yield event(kind, response=self._response(kind, output, total))

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


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(item: dict[str, Any], status: str) -> dict[str, Any]:
    content = [_text(item["text"])] if status == "completed" else []
    return {"id": item["id"], "type": "message", "status": status, "role": "assistant", "content": content}


def _called(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(16)}", "type": "function_call", "status": "completed",
        "call_id": f"call_{secrets.token_hex(12)}", "name": call.name,
        "arguments": msgspec.json.encode(call.arguments).decode(),
    }  # fmt: skip


def _executed(call: ToolCall, output: str) -> dict[str, Any]:
    """A call that the server ran, in the shape that clients know from MCP servers' tools."""
    return {
        "id": f"mcp_{secrets.token_hex(16)}", "type": "mcp_call", "status": "completed", "server_label": "herd",
        "name": call.name, "arguments": msgspec.json.encode(call.arguments).decode(), "output": output, "error": None,
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
