"""The events of a streamed response, and the items of its output: one item after another, each opened, filled and closed."""

import secrets
from collections.abc import Iterator
from typing import Any

import msgspec

from herd.engine.agent import Part, ToolResult
from herd.text.messages import ToolCall

Event = dict[str, Any]


class Output:
    """What a response has put out so far. `push` gives the events of a part, `close` those of the end."""

    def __init__(self, custom: frozenset[str] = frozenset()) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._number = -1
        self._custom = custom  # tools whose one argument is free text

    def event(self, kind: str, **fields: Any) -> Event:
        """The next event."""
        self._number += 1
        return {"type": f"response.{kind}", "sequence_number": self._number, **fields}

    def push(self, part: Part) -> Iterator[Event]:
        """The events of one part of a reply."""
        if part.text:
            if self._open is None or self._open["type"] != "message":
                yield from self.close()
                yield from self._start_text()
            yield from self._more_text(part.text)
        if part.opens:
            yield from self.close()
            yield from self._start({**_function_call(part.opens, part.opens in self._custom)})
        if part.arguments and self._open is not None:
            yield from self._more_arguments(part.arguments)
        if part.call is not None:
            yield from self.close()
            if part.ours:
                yield from self._start(_mcp_call(part.call))
                yield self.event("mcp_call.in_progress", **self._where())
        if part.result is not None and self._open is not None:
            yield from self._ran(part.result)

    def close(self, status: str = "completed") -> Iterator[Event]:
        """The events that end the open item, if one is open."""
        item, self._open = self._open, None
        if item is None:
            return
        item["status"] = status
        where = {"item_id": item["id"], "output_index": len(self.items) - 1}
        if item["type"] == "message":
            content = item["content"][0]
            yield self.event("output_text.done", **where, content_index=0, text=content["text"], logprobs=[])
            yield self.event("content_part.done", **where, content_index=0, part=dict(content))
        elif item["type"] == "function_call":
            yield self.event("function_call_arguments.done", **where, name=item["name"], arguments=item["arguments"])
        elif item["type"] == "custom_tool_call":
            item["input"] = _input(item["input"])
            yield self.event("custom_tool_call_input.delta", **where, delta=item["input"])
            yield self.event("custom_tool_call_input.done", **where, input=item["input"])
        yield self.event("output_item.done", output_index=where["output_index"], item=dict(item))

    def _where(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.items) - 1}

    def _start(self, item: dict[str, Any]) -> Iterator[Event]:
        self.items.append(item)
        self._open = item
        yield self.event("output_item.added", output_index=len(self.items) - 1, item=dict(item))

    def _start_text(self) -> Iterator[Event]:
        item = {"id": f"msg_{secrets.token_hex(16)}", "type": "message", "status": "in_progress", "role": "assistant"}
        yield from self._start({**item, "content": []})
        content = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.items[-1]["content"] = [content]
        yield self.event("content_part.added", **self._where(), content_index=0, part=dict(content))

    def _more_text(self, text: str) -> Iterator[Event]:
        self.items[-1]["content"][0]["text"] += text
        yield self.event("output_text.delta", **self._where(), content_index=0, delta=text, logprobs=[])

    def _more_arguments(self, more: str) -> Iterator[Event]:
        item = self.items[-1]
        if item["type"] == "custom_tool_call":
            item["input"] += more  # JSON until it is whole
            return
        item["arguments"] += more
        yield self.event("function_call_arguments.delta", **self._where(), delta=more)

    def _ran(self, result: ToolResult) -> Iterator[Event]:
        self.items[-1]["output"] = result.output
        yield self.event("mcp_call.completed", **self._where())
        yield from self.close()


def _function_call(name: str, custom: bool) -> dict[str, Any]:
    kind, prefix, text = ("custom_tool_call", "ctc", "input") if custom else ("function_call", "fc", "arguments")
    return {
        "id": f"{prefix}_{secrets.token_hex(16)}", "type": kind, "status": "in_progress",
        "call_id": f"call_{secrets.token_hex(12)}", "name": name, text: "",
    }  # fmt: skip


def _mcp_call(call: ToolCall) -> dict[str, Any]:
    """A call that the server runs, in the shape that clients know from MCP servers' tools."""
    return {
        "id": f"mcp_{secrets.token_hex(16)}", "type": "mcp_call", "status": "in_progress", "server_label": "herd",
        "name": call.name, "arguments": msgspec.json.encode(call.arguments).decode(), "output": None, "error": None,
        "approval_request_id": None,
    }  # fmt: skip


def _input(text: str) -> str:
    """The free text that a custom tool is called with, out of the JSON it was written in; what was cut off as it is."""
    try:
        return str(msgspec.json.decode(text, type=dict[str, Any])["input"])
    except (msgspec.MsgspecError, KeyError):
        return text
