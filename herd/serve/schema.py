"""What clients send, field by field. A field that is not here is refused by its name."""

from typing import Annotated, Any, Literal

import msgspec

TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=20)]
"""How many alternatives beside each token; 20 is OpenAI's bound, the engine has none."""


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A JSON object whose fields are all known."""


class TextPart(_Body, frozen=True, kw_only=True):
    """Text as a part of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class CalledFunction(_Body, frozen=True, kw_only=True):
    """A function's name, and its arguments as JSON."""

    name: str
    arguments: str


class CallPart(_Body, frozen=True, kw_only=True):
    """A call that an assistant made earlier."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(_Body, frozen=True, kw_only=True):
    """A turn of the conversation. What OpenAI's clients echo back empty is taken empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionSpec(_Body, frozen=True, kw_only=True):
    """A function on offer; `parameters` is a JSON schema. Its arguments are always held to it, strict or not."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(_Body, frozen=True, kw_only=True):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionSpec


class ChosenFunction(_Body, frozen=True, kw_only=True):
    """The name of a function."""

    name: str


class ChosenTool(_Body, frozen=True, kw_only=True):
    """The one tool that is to be called."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(_Body, frozen=True, kw_only=True):
    """A schema that the reply is held to, strict or not."""

    name: str = "reply"
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextFormat(_Body, tag="text", tag_field="type", frozen=True, kw_only=True):
    """Plain text."""


class JsonObjectFormat(_Body, tag="json_object", tag_field="type", frozen=True, kw_only=True):
    """Any JSON object."""


class JsonSchemaFormat(_Body, tag="json_schema", tag_field="type", frozen=True, kw_only=True):
    """JSON of one schema."""

    json_schema: JsonSchema


class StreamOptions(_Body, frozen=True, kw_only=True):
    """What a stream has beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Sampled(_Body, frozen=True, kw_only=True):
    """What chat completions and completions share. Defaults are the model's own preset."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    ignore_eos: bool = False
    timeout: float | None = None  # seconds
    priority: int = 0
    grammar: str | None = None  # Lark
    regex: str | None = None
    user: str | None = None


class ChatRequest(Sampled, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage]
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    max_completion_tokens: int | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None


class CompletionRequest(Sampled, frozen=True, kw_only=True):
    """POST /v1/completions. A prompt may be text, tokens, or a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: TopLogprobs | None = None
    echo: bool = False


class FunctionItem(_Body, frozen=True, kw_only=True):
    """A function on offer, as the Responses API has it."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenItem(_Body, frozen=True, kw_only=True):
    """The one function that is to be called."""

    type: Literal["function"]
    name: str


class MessageItem(_Body, tag="message", tag_field="type", frozen=True, kw_only=True):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(_Body, tag="function_call", tag_field="type", frozen=True, kw_only=True):
    """A call that the model made earlier."""

    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    namespace: str | None = None


class CallOutputItem(_Body, tag="function_call_output", tag_field="type", frozen=True, kw_only=True):
    """What a call gave."""

    call_id: str
    output: str
    id: str | None = None
    status: str | None = None


class SchemaText(_Body, tag="json_schema", tag_field="type", frozen=True, kw_only=True):
    """JSON of one schema, as the Responses API has it."""

    name: str = "reply"
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(_Body, frozen=True, kw_only=True):
    """How the text is to be."""

    format: TextFormat | JsonObjectFormat | SchemaText | None = None
    verbosity: None = None


class ResponsesRequest(_Body, frozen=True, kw_only=True):
    """POST /v1/responses. Nothing is stored: a conversation is sent whole."""

    input: str | list[dict[str, Any]]
    model: str = ""
    instructions: str | None = None
    tools: list[FunctionItem] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenItem | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    user: str | None = None
    truncation: Literal["disabled"] | None = None


class TokenizeRequest(_Body, frozen=True, kw_only=True):
    """POST /tokenize: text, or messages as the model would be shown them."""

    text: str | None = None
    messages: list[ChatMessage] | None = None
    model: str = ""


class DetokenizeRequest(_Body, frozen=True, kw_only=True):
    """POST /detokenize."""

    tokens: list[int]
    model: str = ""
