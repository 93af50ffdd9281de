"""POST /v1/responses: the Responses API over the same replies. Responses are kept for `previous_response_id`, a bounded number."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from herd.engine.agent import Offer, Part
from herd.engine.request import Usage
from herd.errors import RequestError
from herd.serve.gate import Share
from herd.serve.job import add, relax, told, warned, watched, with_preset
from herd.serve.messages import FREE_TEXT, allowed_name, conversation, function, offer, text_of
from herd.serve.reply import Accepted, ensure_finished, reply, sampling
from herd.serve.response_events import Output
from herd.serve.responses_schema import (
    CallItem,
    CallOutputItem,
    CustomCallItem,
    CustomOutputItem,
    Item,
    MessageItem,
    RanItem,
    ReasoningItem,
    ResponsesChoice,
    ResponsesRequest,
    SchemaText,
)
from herd.serve.schema import CalledFunction, CallPart, ChatMessage, JsonObjectFormat
from herd.serve.served import Served, limits


class ResponseJob:
    """One request, checked and ready to run."""

    def __init__(self, served: Served, body: ResponsesRequest, share: Share) -> None:
        self.served, self.body, self.share = served, body, share
        self.params = sampling(served, body, max_tokens=body.max_output_tokens)
        self.items = _input(served, body, share.user)
        self.messages = with_preset(served, _messages(self.items, body.instructions))
        self.custom = frozenset(tool.name or "" for tool in body.tools or () if tool.type == "custom")
        self.notes: list[str] = []
        form = body.text.format if body.text else None
        content = {"type": "object"} if isinstance(form, JsonObjectFormat) else None
        if isinstance(form, SchemaText):
            content = form.schema or {"type": "object"}
        strict = {tool.name or "" for tool in body.tools or () if tool.strict}
        if isinstance(form, SchemaText) and form.strict:
            strict.add("text.format")
        self.offer, self.check = relax(self._offer(), content, self.notes, "text.format", strict)
        self.accepted, self.replies = Accepted(), 1
        self.id = f"resp_{secrets.token_hex(16)}"
        self.watch, self.messages = watched(served, self.messages, id=self.id, user=share.user)
        self.created = int(time.time())

    def _offer(self) -> Offer:
        """What the tools and tool_choice mean. Tools that OpenAI would run (web_search and the like) are not there, and said so."""
        tools = []
        for i, tool in enumerate(self.body.tools or ()):
            if tool.type in ("function", "custom"):
                parameters = FREE_TEXT if tool.type == "custom" else tool.parameters
                tools.append(function(tool.name or "", tool.description, parameters, f"tools[{i}]"))
            else:
                self.notes.append(f"tools[{i}]: this server has no {tool.type}")
        choice, parallel, own = self.body.tool_choice, self.body.parallel_tool_calls, self.served.toolbox.tools
        if not isinstance(choice, ResponsesChoice):
            return offer(tools, choice or "auto", None, parallel, own)
        if choice.type == "allowed_tools":
            return offer(tools, choice.mode or "auto", [allowed_name(t) for t in choice.tools or ()], parallel, own)
        return offer(tools, choice.name or "", None, parallel, own)

    def parts(self) -> AsyncIterator[Part]:
        """The reply as it comes."""
        return reply(
            self.served,
            self.messages,
            self.params,
            self.offer,
            limits(self.served, begun=self.share.begun),
            user=self.share.user,
            accepted=self.accepted,
            watch=self.watch,
            check=self.check,
        )

    async def whole(self, parts: AsyncIterator[Part]) -> dict[str, Any]:
        """The answer in one object."""
        last: dict[str, Any] = {}
        async for event in self.chunks(parts):
            last = event
        answer: dict[str, Any] = last["response"]
        return answer

    async def chunks(self, parts: AsyncIterator[Part]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream; the last one has the whole answer."""
        output, total, reason = Output(self.custom), Usage(0, 0, 0), None
        yield output.event("created", response=self._response("in_progress", [], None))
        yield output.event("in_progress", response=self._response("in_progress", [], None))
        async for part in parts:
            ensure_finished(part.reason)
            for event in output.push(part):
                yield event
            if part.usage is not None:
                total, reason = add(total, part.usage), part.reason
        status = "incomplete" if reason in ("length", "content_filter") else "completed"
        for event in output.close(status):
            yield event
        if self.body.store is not False:
            self.served.store.put(self.share.user, self.id, [*self.items, *output.items])
        answer = self._response(status, output.items, total)
        if reason == "content_filter":
            answer["incomplete_details"] = {"reason": "content_filter"}
        yield output.event(status, response=told(answer, self.watch, self.check))

    def _response(self, status: str, output: list[dict[str, Any]], total: Usage | None) -> dict[str, Any]:
        body = self.body
        form = body.text.format if body.text and body.text.format else None
        answer = {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions, "max_output_tokens": body.max_output_tokens, "model": self.served.name,
            "output": output, "parallel_tool_calls": self.offer.parallel, "previous_response_id": body.previous_response_id,
            "temperature": self.params.temperature, "top_p": self.params.top_p,
            "text": {"format": msgspec.to_builtins(form) if form else {"type": "text"}},
            "tool_choice": msgspec.to_builtins(body.tool_choice) if body.tool_choice else "auto",
            "tools": msgspec.to_builtins(body.tools or []), "truncation": "disabled", "metadata": body.metadata or {},
            "store": body.store is not False, "user": body.user, "reasoning": {"effort": None, "summary": None},
            "usage": None if total is None else {
                "input_tokens": total.prompt, "input_tokens_details": {"cached_tokens": total.cached, "cache_write_tokens": 0},
                "output_tokens": total.completion, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": total.prompt + total.completion,
            },
        }  # fmt: skip
        return warned(answer, self.notes)


def _input(served: Served, body: ResponsesRequest, user: str) -> list[Any]:
    """What the conversation is, as items: of the response before, and of this request."""
    given: list[Any] = body.input if isinstance(body.input, list) else []
    if isinstance(body.input, str):
        given = [{"type": "message", "role": "user", "content": body.input}]
    before = [] if body.previous_response_id is None else served.store.get(user, body.previous_response_id)
    return [*before, *given]


def _items(given: Sequence[Any]) -> list[Any]:
    """Input items; fields that are null, as clients echo them back, are left out."""
    found: list[Any] = []
    for i, item in enumerate(given):
        where = f"input[{i}]"
        try:
            fields = {name: value for name, value in item.items() if value is not None}
            found.append(msgspec.convert({"type": "message", **fields}, type=Item))
        except msgspec.ValidationError as error:
            raise RequestError(f"{where}: {error}", param=where) from error
    return found


def _messages(items: Sequence[Any], instructions: str | None) -> list[Any]:
    """The conversation that a request's input is."""
    chat: list[ChatMessage] = [] if instructions is None else [ChatMessage(role="system", content=instructions)]
    for i, item in enumerate(_items(items)):
        where = f"input[{i}]"
        if isinstance(item, MessageItem):
            chat.append(ChatMessage(role=item.role, content=text_of(item.content, f"{where}.content")))
        elif isinstance(item, CallOutputItem | CustomOutputItem):
            output = text_of(item.output, f"{where}.output")
            chat.append(ChatMessage(role="tool", content=output, tool_call_id=item.call_id))
        elif isinstance(item, CallItem):
            _add_call(chat, item.call_id, item.name, item.arguments or "")
        elif isinstance(item, CustomCallItem):
            _add_call(chat, item.call_id, item.name, msgspec.json.encode({"input": item.input or ""}).decode())
        elif isinstance(item, RanItem):
            name = f"ran_{i}"
            _add_call(chat, name, item.name, item.arguments or "")
            chat.append(ChatMessage(role="tool", content=item.output or "", tool_call_id=name))
        else:
            assert isinstance(item, ReasoningItem)
    if not chat:
        raise RequestError("input is empty; expected text or items", param="input")
    return conversation(chat)


def _add_call(chat: list[ChatMessage], call_id: str, name: str, arguments: str) -> None:
    """Text and calls of one turn are one message."""
    call = CallPart(id=call_id, function=CalledFunction(name=name, arguments=arguments))
    if chat and chat[-1].role == "assistant":
        before = chat.pop()
        chat.append(msgspec.structs.replace(before, tool_calls=[*(before.tool_calls or ()), call]))
    else:
        chat.append(ChatMessage(role="assistant", tool_calls=[call]))
