"""OpenAI's messages and tools -> those of the dialog encoder and of the agent."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from herd.engine.agent import Offer
from herd.errors import RequestError
from herd.serve.schema import ChatMessage, ChosenTool, ContentPart, ToolSpec
from herd.text.messages import Message, Tool, ToolCall

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TEXT = ("text", "input_text", "output_text", "refusal")
_MOST_TOOLS = 128
_DEEPEST = 64  # objects and lists within each other, in what templates and grammars walk through
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
FREE_TEXT: dict[str, Any] = {
    "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"], "additionalProperties": False,
}  # fmt: skip
"""The arguments of a custom tool, which takes free text."""


def text_of(content: str | Sequence[ContentPart] | None, where: str) -> str:
    """The text of a message's content; RequestError for parts that are no text."""
    if content is None or isinstance(content, str):
        return content or ""
    for i, part in enumerate(content):
        if part.type is not None and part.type not in _TEXT:
            raise RequestError(
                f"{where}[{i}].type is {part.type!r}; this model reads text only", param=f"{where}[{i}].type"
            )
    return "".join(part.text or part.refusal or "" for part in content)


def conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """Messages as the dialog encoder takes them; RequestError names one that makes no sense."""
    if not messages:
        raise RequestError("messages is empty; expected at least one message", param="messages")
    found: list[Message] = []
    asked: set[str] = set()
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        text = text_of(message.content, f"{where}.content")
        if message.role == "tool":
            if message.tool_call_id not in asked:
                raise RequestError(
                    f"{where}.tool_call_id is {message.tool_call_id!r}; expected the id of a call made before it",
                    param=f"{where}.tool_call_id",
                )
            found.append(Message("ipython", text))
            continue
        if message.tool_calls and message.role != "assistant":
            raise RequestError(f"{where}.tool_calls: only the assistant calls tools", param=f"{where}.tool_calls")
        if message.content is None and not message.tool_calls and message.role != "assistant":
            raise RequestError(f"{where}.content is required", param=f"{where}.content")
        calls = []
        for call in message.tool_calls or ():
            asked.add(call.id)
            name, raw = call.function.name, call.function.arguments or ""
            arguments = _arguments(raw)
            if arguments is None:  # cut off: what was written is kept as text
                text += f'{{"name": "{name}", "parameters": {raw}'
            else:
                calls.append(ToolCall(name, arguments))
        role: Any = "system" if message.role == "developer" else message.role
        found.append(Message(role, text, tuple(calls)))
    return found


def _arguments(text: str) -> dict[str, Any] | None:
    """An earlier call's arguments; None for those that were cut off or are not an object."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    return value if _depth(value) <= _DEEPEST else None


def _depth(value: Any) -> int:
    """How many objects and lists lie within each other."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth


def function(name: str, description: str | None, parameters: dict[str, Any] | None, where: str) -> Tool:
    """A function on offer; RequestError for a name that OpenAI would not take either."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{where}.name is {name[:80]!r}; expected 1 to 64 letters, digits, _ and -", param=f"{where}.name"
        )
    if parameters and _depth(parameters) > _DEEPEST:
        raise RequestError(f"{where}.parameters is nested deeper than {_DEEPEST} levels", param=f"{where}.parameters")
    kind = (parameters or {}).get("type")
    if kind not in (None, "object") and not (isinstance(kind, list) and "object" in kind):
        raise RequestError(
            f"{where}.parameters.type is {str(kind)[:80]!r}; expected 'object', whose properties are the arguments",
            param=f"{where}.parameters",
        )
    return Tool(name, description or "", parameters or NOTHING)


def chat_offer(tools: Sequence[ToolSpec], choice: str | ChosenTool | None, parallel: bool | None, own: Sequence[Tool]) -> Offer:  # fmt: skip
    """What the tools and tool_choice of a chat request mean, beside tools of the server's own."""
    offered = [
        function(spec.function.name, spec.function.description, spec.function.parameters, f"tools[{i}].function")
        for i, spec in enumerate(tools)
    ]
    if not isinstance(choice, ChosenTool):
        return offer(offered, choice or "auto", None, parallel, own)
    if choice.allowed_tools is not None:
        names = [allowed_name(tool) for tool in choice.allowed_tools.tools]
        return offer(offered, choice.allowed_tools.mode, names, parallel, own)
    if choice.function is None:
        raise RequestError("tool_choice names no tool", param="tool_choice")
    return offer(offered, choice.function.name, None, parallel, own)


def allowed_name(tool: dict[str, Any]) -> str:
    """The name in an entry of allowed_tools."""
    inner = tool.get(tool.get("type", "function"))
    name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
    if not isinstance(name, str):
        raise RequestError("tool_choice: an allowed tool has no name", param="tool_choice")
    return name


def offer(
    tools: Sequence[Tool], choice: str, allowed: Sequence[str] | None, parallel: bool | None, own: Sequence[Tool]
) -> Offer:
    """Tools and a choice among them; RequestError where they do not go together."""
    names = [tool.name for tool in tools]
    if len(names) > _MOST_TOOLS:
        raise RequestError(f"tools has {len(names)} tools; expected {_MOST_TOOLS} at most", param="tools")
    if len(set(names)) < len(names):
        raise RequestError("tools: two have the same name", param="tools")
    known = {*names, *(tool.name for tool in own)}
    for name in (choice, *(allowed or ())):
        if name not in ("auto", "none", "required") and name not in known:
            raise RequestError(f"tool_choice names {name!r}, which is not among tools", param="tool_choice")
    if choice == "required" and not known:
        raise RequestError("tool_choice is required, and there are no tools", param="tool_choice")
    return Offer(
        tuple(tools), choice, parallel is not False, None if allowed is None else frozenset(allowed)
    )  # fmt: skip
