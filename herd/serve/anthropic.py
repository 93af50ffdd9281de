"""POST /v1/messages, as Anthropic documents it: text, tools, streams."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from herd.engine.agent import Offer, Part, ToolResult
from herd.engine.request import Usage
from herd.errors import RequestError
from herd.serve.anthropic_schema import AnthropicMessage, Block, MessagesRequest
from herd.serve.gate import Share
from herd.serve.job import add, prefilled, relax, told, warned, watched, with_preset
from herd.serve.messages import function, offer
from herd.serve.reply import Accepted, ensure_finished, reply, sampling
from herd.serve.served import Served, limits
from herd.text.messages import Message, ToolCall

_SKIPPED = ("thinking", "redacted_thinking")
_CALLS = ("tool_use", "mcp_tool_use", "server_tool_use")
_RESULTS = ("tool_result", "mcp_tool_result")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class MessagesJob:
    """One request, checked and ready to run."""

    def __init__(self, served: Served, body: MessagesRequest, share: Share) -> None:
        if body.max_tokens is None:
            raise RequestError("max_tokens is required", param="max_tokens")
        self.served, self.body, self.share = served, body, share
        self.params = sampling(served, body, max_tokens=body.max_tokens, stop=tuple(body.stop_sequences or ()) or None)
        self.messages, self.prefill = prefilled(with_preset(served, conversation(body)))
        self.notes: list[str] = []
        strict = {tool.name for tool in body.tools or () if tool.strict}
        form = (body.output_config.format if body.output_config else None) or body.output_format
        self.offer, self.check = relax(
            tools_of(served, body), form.schema if form else None, self.notes, "output_config.format", strict
        )
        self.accepted, self.replies = Accepted(), 1
        self.id = f"msg_{secrets.token_hex(12)}"
        self.watch, self.messages = watched(served, self.messages, self.prefill, id=self.id, user=share.user)

    def parts(self) -> AsyncIterator[Part]:
        """The reply as it comes."""
        return reply(
            self.served, self.messages, self.params, self.offer, limits(self.served, begun=self.share.begun), prefill=self.prefill,
            user=self.share.user, accepted=self.accepted, watch=self.watch, check=self.check,
        )  # fmt: skip

    async def whole(self, parts: AsyncIterator[Part]) -> dict[str, Any]:
        """The answer in one object."""
        content, end = _Content(), Part(0)
        async for part in parts:
            ensure_finished(part.reason)
            for _ in content.push(part):
                pass
            end = part
        for _ in content.close():
            pass
        answer = {**self._message(), "content": content.blocks, **self._stop(content, end), "usage": _usage(end.usage)}
        return told(warned(answer, self.notes), self.watch, self.check)

    async def chunks(self, parts: AsyncIterator[Part]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream."""
        begun = _usage(Usage(self.accepted.prompt, 0, 0))
        start = {**self._message(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": begun}
        yield {"type": "message_start", "message": warned(start, self.notes)}
        content, end = _Content(), Part(0)
        async for part in parts:
            ensure_finished(part.reason)
            for event in content.push(part):
                yield event
            end = part
        for event in content.close():
            yield event
        last = {"type": "message_delta", "delta": self._stop(content, end), "usage": _usage(end.usage)}
        yield told(last, self.watch, self.check)
        yield {"type": "message_stop"}

    def _message(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.served.name}

    def _stop(self, content: "_Content", end: Part) -> dict[str, Any]:
        if end.reason == "content_filter":
            return {"stop_reason": "refusal", "stop_sequence": None}
        stops = self.body.stop_sequences or []
        reason = "max_tokens" if end.reason == "length" else "tool_use" if content.called else "end_turn"
        if end.by_text and reason == "end_turn":
            return {"stop_reason": "stop_sequence", "stop_sequence": stops[0] if len(stops) == 1 else None}
        return {"stop_reason": reason, "stop_sequence": None}


class _Content:
    """The blocks of a message so far. `push` gives the events of a part, `close` those that end the open block."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []
        self.called = False
        self._open = False
        self._json = ""

    def push(self, part: Part) -> Iterator[dict[str, Any]]:
        if part.text:
            if not self._open or self.blocks[-1]["type"] != "text":
                yield from self._start({"type": "text", "text": ""})
            self.blocks[-1]["text"] += part.text
            yield self._delta({"type": "text_delta", "text": part.text})
        if part.opens:
            self.called = True
            yield from self._start({"type": "tool_use", "id": _id("toolu"), "name": part.opens, "input": {}})
        if part.arguments:
            self._json += part.arguments
            yield self._delta({"type": "input_json_delta", "partial_json": part.arguments})
        if part.call is not None and part.ours:
            named = {"id": _id("mcptoolu"), "name": part.call.name, "server_name": "herd", "input": part.call.arguments}
            yield from self._start({"type": "mcp_tool_use", **named})
        elif part.call is not None:
            yield from self.close()
        if part.result is not None:
            yield from self._ran(part.result)

    def close(self) -> Iterator[dict[str, Any]]:
        """The end of the open block, if one is open; arguments that were cut off are left out."""
        if not self._open:
            return
        self._open = False
        if self._json:
            block = self.blocks[-1]
            try:
                block["input"] = msgspec.json.decode(self._json, type=dict[str, Any])
            except msgspec.MsgspecError:
                block["input"] = {}
            self._json = ""
        yield {"type": "content_block_stop", "index": len(self.blocks) - 1}

    def _start(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self.close()
        self.blocks.append(block)
        self._open = True
        yield {"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": dict(block)}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}

    def _ran(self, result: ToolResult) -> Iterator[dict[str, Any]]:
        said = [{"type": "text", "text": result.output}]
        asked = self.blocks[-1]["id"]
        yield from self._start({"type": "mcp_tool_result", "tool_use_id": asked, "is_error": False, "content": said})
        yield from self.close()


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _usage(usage: Usage | None) -> dict[str, Any]:
    used = add(Usage(0, 0, 0), usage) if usage else Usage(0, 0, 0)
    return {
        "input_tokens": used.prompt - used.cached, "cache_read_input_tokens": used.cached, "cache_creation_input_tokens": 0,
        "output_tokens": used.completion,
    }  # fmt: skip


def tools_of(served: Served, body: MessagesRequest) -> Offer:
    """What tools and tool_choice mean; tools that Anthropic itself would run are refused."""
    found = []
    for i, tool in enumerate(body.tools or ()):
        if tool.type not in (None, "custom"):
            raise RequestError(
                f"tools[{i}].type is {tool.type!r}; this server has functions only", param=f"tools[{i}].type"
            )
        found.append(function(tool.name, tool.description, tool.input_schema, f"tools[{i}]"))
    choice, own = body.tool_choice, served.toolbox.tools
    if choice is None:
        return offer(found, "auto", None, None, own)
    wanted = choice.name or "" if choice.type == "tool" else _CHOICES[choice.type]
    return offer(found, wanted, None, not choice.disable_parallel_tool_use, own)


def conversation(body: MessagesRequest) -> list[Message]:
    """Messages as the dialog encoder takes them; RequestError names one that makes no sense."""
    if not body.messages:
        raise RequestError("messages is empty; expected at least one message", param="messages")
    found: list[Message] = []
    if body.system:
        found.append(Message("system", _text(body.system, "system")))
    asked: set[str] = set()
    for i, message in enumerate(body.messages):
        found += _turn(message, f"messages[{i}]", asked)
    return found


def _turn(message: AnthropicMessage, where: str, asked: set[str]) -> Iterator[Message]:
    """One message's results, then its text and calls."""
    if isinstance(message.content, str):
        yield Message(message.role, message.content)
        return
    text, calls = "", []
    for k, block in enumerate(message.content):
        at = f"{where}.content[{k}]"
        if block.type in (None, "text"):
            text += block.text or ""
        elif block.type in _CALLS and message.role == "assistant":
            calls.append(ToolCall(block.name or "", block.input or {}))
            asked.add(block.id or "")
        elif block.type in _RESULTS:
            if block.tool_use_id not in asked:
                raise RequestError(
                    f"{at}.tool_use_id is {block.tool_use_id!r}; expected the id of a call made before it", param=f"{at}.tool_use_id"
                )  # fmt: skip
            if calls:  # of the server's own: its result stands in the same message
                yield Message("assistant", text, tuple(calls))
                text, calls = "", []
            try:
                content = msgspec.convert(block.content, str | list[Block] | None)
            except msgspec.ValidationError as error:
                raise RequestError(f"{at}.content: {error}", param=f"{at}.content") from error
            yield Message("ipython", _text(content or "", f"{at}.content"))
        elif block.type not in _SKIPPED:
            raise RequestError(f"{at}.type is {block.type!r}; this model reads text only", param=f"{at}.type")
    if text or calls:
        yield Message(message.role, text, tuple(calls))


def _text(content: str | list[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    for k, block in enumerate(content):
        if block.type not in (None, "text"):
            raise RequestError(
                f"{where}[{k}].type is {block.type!r}; this model reads text only", param=f"{where}[{k}].type"
            )
    return "".join(block.text or "" for block in content)
