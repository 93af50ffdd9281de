"""Messages as chat templates expect them (OpenAI's keys), and as text what a template does not read.

How a template takes calls is found by rendering a conversation that has one, as nothing else tells it.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from herd.errors import RequestError
from herd.text.messages import Message, Tool, ToolCall
from herd.text.template import ChatTemplate


class CallsForm(NamedTuple):
    """`arguments`: as an object, as a JSON string, or calls as text; `results`: whether tools' messages are written."""

    arguments: Literal["object", "string", "text"]
    results: bool


def call_id(number: int) -> str:
    """An id for a conversation's call; some templates want nine letters and digits, and no others."""
    return f"call{number:05}"


def message_dicts(messages: Sequence[Message], form: CallsForm) -> list[dict[str, Any]]:
    """Messages with OpenAI's keys; a tool's output belongs to the calls before it, in their order."""
    plain: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # ids and names of calls without a result so far
    count = 0
    for message in messages:
        if message.role == "ipython":
            call, name = waiting.pop(0) if waiting else (call_id(count), "")
            if form.results:
                named = {"name": name} if name else {}
                plain.append({"role": "tool", "content": message.content, "tool_call_id": call, **named})
            elif plain and plain[-1].get("result"):
                plain[-1]["content"] += "\n" + message.content
            else:
                plain.append({"role": "user", "content": message.content, "result": True})
            continue
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        waiting = [(call_id(count + i), call.name) for i, call in enumerate(message.tool_calls)]
        count += len(waiting)
        if message.tool_calls and form.arguments == "text":
            written = "\n".join(_call_text(call) for call in message.tool_calls)
            one["content"] = f"{message.content}\n{written}" if message.content else written
        elif message.tool_calls:
            one["tool_calls"] = [
                call_dict(call, waiting[i][0], as_string=form.arguments == "string")
                for i, call in enumerate(message.tool_calls)
            ]
        plain.append(one)
    for one in plain:
        one.pop("result", None)
    return plain


def call_dict(call: ToolCall, number: str, *, as_string: bool) -> dict[str, Any]:
    """A call with OpenAI's keys; transformers wants its arguments as an object, OpenAI as JSON."""
    arguments = json.dumps(call.arguments, ensure_ascii=False) if as_string else call.arguments
    return {"type": "function", "id": number, "function": {"name": call.name, "arguments": arguments}}


def _call_text(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False)


def tool_dict(tool: Tool) -> dict[str, Any]:
    """A function with OpenAI's keys."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


_CALL = ToolCall("herd_probe_name", {"herd_probe_key": "herd_probe_value"})
_RESULT = "herd_probe_result"
_TOOL = Tool(
    _CALL.name, "Probe", {"type": "object", "properties": {"herd_probe_key": {"type": "string", "description": ""}}}
)


def calls_form(template: ChatTemplate) -> CallsForm:
    """How a template takes calls and results."""
    return _calls_form(template.source)


@lru_cache(maxsize=64)
def _calls_form(source: str) -> CallsForm:
    template = ChatTemplate(source)

    def written(arguments: Literal["object", "string", "text"], results: bool) -> str:
        called = [Message("user", "Probe."), Message("assistant", "", (_CALL,)), Message("ipython", _RESULT)]
        with_tool = [tool_dict(_TOOL)] if template.reads("tools") else None
        try:
            text = template.render(message_dicts(called, CallsForm(arguments, results)), tools=with_tool)
            listed = template.render(message_dicts(called[:1], CallsForm("object", True)), tools=with_tool)
        except RequestError:
            return ""
        more = text.count(_CALL.name) > listed.count(_CALL.name)
        return text if more and "herd_probe_value" in text and (_RESULT in text or not results) else ""

    for results in (True, False):
        found = written("object", results)
        if found and "'herd_probe_key'" not in found:  # else Python's form of a dict
            return CallsForm("object", results)
        found = written("string", results)
        if found and '\\"herd_probe_key' not in found:
            return CallsForm("string", results)
    return CallsForm("text", bool(written("text", True)))
