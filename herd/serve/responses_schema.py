"""What clients of the Responses API send, field by field."""

from typing import Any, Literal

from herd.serve.schema import ContentPart, Ignored, Inner, JsonObjectFormat, TextFormat


class ResponsesTool(Inner, frozen=True, kw_only=True):
    """A tool on offer: a function, or a custom one that takes free text. Tools of OpenAI's own are left out."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesChoice(Inner, frozen=True, kw_only=True):
    """The one tool that is to be called, or those that may be."""

    type: Literal["function", "custom", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class MessageItem(Inner, tag="message", tag_field="type", frozen=True, kw_only=True):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]


class CallItem(Inner, tag="function_call", tag_field="type", frozen=True, kw_only=True):
    """A call that the model made earlier."""

    call_id: str
    name: str
    arguments: str | None = None


class CallOutputItem(Inner, tag="function_call_output", tag_field="type", frozen=True, kw_only=True):
    """What a call gave."""

    call_id: str
    output: str | list[ContentPart]


class CustomCallItem(Inner, tag="custom_tool_call", tag_field="type", frozen=True, kw_only=True):
    """A call of a custom tool that the model made earlier."""

    call_id: str
    name: str
    input: str | None = None


class CustomOutputItem(Inner, tag="custom_tool_call_output", tag_field="type", frozen=True, kw_only=True):
    """What a custom tool gave."""

    call_id: str
    output: str | list[ContentPart]


class RanItem(Inner, tag="mcp_call", tag_field="type", frozen=True, kw_only=True):
    """A call that the server ran itself, as it returned it."""

    name: str
    arguments: str | None = None
    output: str | None = None


class ReasoningItem(Inner, tag="reasoning", tag_field="type", frozen=True, kw_only=True):
    """What another model thought; it is left out."""


Item = (
    MessageItem | CallItem | CallOutputItem | CustomCallItem | CustomOutputItem | RanItem | ReasoningItem
)  # fmt: skip


class SchemaText(Inner, tag="json_schema", tag_field="type", frozen=True, kw_only=True):
    """JSON of one schema."""

    name: str | None = "reply"
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(Inner, frozen=True, kw_only=True):
    """How the text is to be."""

    format: TextFormat | JsonObjectFormat | SchemaText | None = None


class ResponsesRequest(Ignored, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | list[dict[str, Any]] | None = None
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponsesChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    stream: bool | None = None
    stream_options: Any = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    max_output_tokens: int | None = None
    max_tool_calls: Any = None
    reasoning: Any = None
    truncation: Literal["disabled", "auto"] | None = None
    background: Literal[False] | None = None
    client_metadata: Any = None
