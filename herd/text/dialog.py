"""The Llama 3.1 dialog format: messages -> token ids.

Format: Meta's "Llama 3.1 - Prompt Formats" and ChatFormat of the llama-models package. Only this file and the chat
templates write special tokens; everything a user, a tool or a model wrote is encoded as plain text.
"""

import datetime
import json
import re
from collections.abc import Sequence
from typing import Literal

from herd.errors import FormatError, RequestError
from herd.text.messages import Message, Tool, ToolCall
from herd.text.tokenizer import Encoded, Tokenizer

ToolFormat = Literal["json", "function_tag"]
ROLES = ("system", "user", "assistant", "ipython")

_JSON_INTRODUCTION = (
    "Answer the user's question by making use of the following functions if needed.\n"
    "If none of the function can be used, please say so.\n"
    "Here is a list of functions in JSON format:\n"
)
_TAG_REMINDER = """Think very carefully before calling functions.
If you choose to call a function ONLY reply in the following format with no prefix or suffix:

<function=example_function_name>{"example_name": "example_value"}</function>

Reminder:
- If looking for real time information use relevant functions before falling back to brave_search
- Function calls MUST follow the specified format, start with <function= and end with </function>
- Required parameters MUST be specified
- Only call one function at a time
- Put the entire function call reply on one line"""


def system_text(
    text: str = "",
    *,
    builtin_tools: Sequence[str] = (),
    ipython: bool = False,
    date: datetime.date | None = None,
    functions: Sequence[Tool] = (),
    tool_format: ToolFormat = "json",
) -> str:
    """Content of a system message: environment, built-in tools, the two date lines, functions, then `text`.

    `builtin_tools` are names out of brave_search, wolfram_alpha and code_interpreter, which needs no line of its own.
    """
    lines = []
    if ipython or builtin_tools or functions:
        lines.append("Environment: ipython")
    named = [name for name in builtin_tools if name != "code_interpreter"]
    if named:
        lines.append("Tools: " + ", ".join(named))
    if date is not None:
        lines += ["Cutting Knowledge Date: December 2023", f"Today Date: {date.day:02} {date:%B %Y}"]
    parts = ["\n".join(lines)] if lines else []
    if functions:
        parts.append(functions_text(functions, tool_format))
    if text:
        parts.append(text)
    return "\n\n".join(parts)


def functions_text(functions: Sequence[Tool], tool_format: ToolFormat = "json") -> str:
    """Description of custom functions, for the system message or for a user message of its own."""
    if tool_format == "json":
        listed = "\n".join(
            json.dumps(
                {
                    "type": "function",
                    "function": {"name": f.name, "description": f.description, "parameters": f.parameters},
                },
                indent=4,
                ensure_ascii=False,
            )
            for f in functions
        )
        return f"{_JSON_INTRODUCTION}{listed}\n\nReturn function calls in JSON format."
    used = "\n\n".join(
        f"Use the function '{f.name}' to '{f.description}':\n"
        + json.dumps(
            {"name": f.name, "description": f.description, "parameters": _tag_parameters(f)}, ensure_ascii=False
        )
        for f in functions
    )
    return f"You have access to the following functions:\n\n{used}\n\n{_TAG_REMINDER}"


_PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}


def _tag_parameters(function: Tool) -> dict[str, object]:
    """A JSON schema's properties in the form the <function=...> prompt lists them."""
    required = function.parameters.get("required") or []
    properties = function.parameters.get("properties") or {}
    listed: dict[str, object] = {}
    for name, schema in properties.items():
        schema = schema if isinstance(schema, dict) else {}
        kind = schema.get("type")
        listed[name] = {
            "description": schema.get("description", ""),
            "param_type": _PYTHON_TYPES.get(kind, kind) if isinstance(kind, str) else "str",
            "required": name in required,
        }
    return listed


def tool_call_text(call: ToolCall, tool_format: ToolFormat = "json") -> str:
    """A call as the model writes it."""
    if call.name in ("brave_search", "wolfram_alpha") and set(call.arguments) == {"query"}:
        query = str(call.arguments["query"])
        quoted = json.dumps(query, ensure_ascii=False) if re.search(r'["\\\x00-\x1f]', query) else f'"{query}"'
        return f"{call.name}.call(query={quoted})"
    if call.name == "code_interpreter" and set(call.arguments) == {"code"}:
        return str(call.arguments["code"])
    if tool_format == "function_tag":
        return f"<function={call.name}>{json.dumps(call.arguments)}</function>"
    return json.dumps({"type": "function", "name": call.name, "parameters": call.arguments})


class Dialog:
    """Encodes conversations for one tokenizer that has Llama 3's special tokens; FormatError when it has not."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        needed = (
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        )
        missing = [name for name in needed if name not in tokenizer.special_tokens]
        if missing:
            raise FormatError(
                f"tokenizer has no {missing[0]}; the Llama 3.1 dialog format needs Llama 3's special tokens"
            )
        self._tokenizer = tokenizer
        self._ids = {name: tokenizer.special_tokens[name] for name in needed}
        self._gap = tokenizer.encode("\n\n")

    def _header(self, role: str) -> list[int]:
        if role not in ROLES:
            raise RequestError(f"message role {role!r} is unknown; expected one of {', '.join(ROLES)}")
        ids = self._ids
        return [ids["<|start_header_id|>"], *self._tokenizer.encode(role), ids["<|end_header_id|>"], *self._gap]

    def _body(self, message: Message, tool_format: ToolFormat) -> list[int]:
        """What follows a message's header, with its end."""
        tokens: list[int] = []
        calls = message.tool_calls if message.role == "assistant" else ()
        tagged = message.python_tag
        if tagged is None:
            tagged = bool(calls) and calls[0].name == "code_interpreter"
        if tagged and message.python_tag is None:  # ChatFormat puts the tag before the content
            tokens.append(self._ids["<|python_tag|>"])
        tokens += self._tokenizer.encode(message.content)
        if tagged and message.python_tag is not None:
            tokens.append(self._ids["<|python_tag|>"])
        for i, call in enumerate(calls):
            separator = "; " if i and message.python_tag is not None else ""
            tokens += self._tokenizer.encode(separator + tool_call_text(call, tool_format))
        expects = message.role == "assistant" and message.expects_result
        tokens.append(self._ids["<|eom_id|>" if expects else "<|eot_id|>"])
        return tokens

    def encode(self, messages: Sequence[Message], *, tool_format: ToolFormat = "json", reply: bool = True) -> Encoded:
        """A whole conversation; `reply` adds the header of the assistant's turn to come."""
        tokens, mask = [self._ids["<|begin_of_text|>"]], [False]
        for message in messages:
            header = self._header(message.role)
            body = self._body(message, tool_format)
            tokens += header + body
            mask += [False] * len(header) + [message.role == "assistant"] * len(body)
        if reply:
            tokens += self._header("assistant")
        return Encoded(tokens, lambda: mask + [False] * (len(tokens) - len(mask)))
