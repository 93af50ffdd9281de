"""What clients of Anthropic's Messages API send, field by field."""

from typing import Any, Literal

from herd.serve.schema import Body, Inner


class Block(Inner, frozen=True, kw_only=True):
    """A part of a message: text, a call, or what a call gave."""

    type: str | None = "text"
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


class AnthropicMessage(Inner, frozen=True, kw_only=True):
    """A turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Inner, frozen=True, kw_only=True):
    """A function on offer."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class AnthropicChoice(Inner, frozen=True, kw_only=True):
    """What the model must do with the tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Inner, frozen=True, kw_only=True):
    """A schema that the text is held to."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Inner, frozen=True, kw_only=True):
    """How the text is to be."""

    format: OutputFormat | None = None


class MessagesRequest(Body, frozen=True, kw_only=True):
    """POST /v1/messages, and /v1/messages/count_tokens."""

    messages: list[AnthropicMessage]
    model: str | None = None
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicChoice | None = None
    metadata: Any = None
    thinking: Any = None
    service_tier: Any = None
    container: Any = None
    context_management: Any = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # its earlier name
    cache_control: Any = None
    inference_geo: Any = None
