"""What a conversation is made of: messages, tools and tool calls."""

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "ipython"]
BUILTIN_TOOLS = ("brave_search", "wolfram_alpha", "code_interpreter")


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a model made: `arguments` is a JSON object. Built-in tools take `query` or, to run code, `code`."""

    name: str
    arguments: dict[str, Any]


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call; `parameters` is a JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class Message(msgspec.Struct, frozen=True):
    """One turn. `ipython` carries a tool's output.

    `tool_calls` follow `content` in an assistant's turn. `expects_result` ends the turn with <|eom_id|> in place of
    <|eot_id|>. `python_tag` says whether the calls start with <|python_tag|>; None means as Meta's ChatFormat does,
    that is for the code interpreter alone.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    expects_result: bool = False
    python_tag: bool | None = None
