"""What clients send, field by field. A field of a body that is not here is refused by its name."""

from typing import Annotated, Any, Literal

import msgspec

TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=20)]
"""How many alternatives beside each token; 20 is OpenAI's bound, the engine has none."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A body. Null is the same as not there, everywhere."""


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    """An object inside of a body: clients echo back what else it had, which is ignored."""


class Ignored(Body, frozen=True, kw_only=True):
    """Fields of OpenAI's that do nothing here."""

    include: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    store: bool | None = None
    metadata: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    prediction: Any = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = None


class ContentPart(Inner, frozen=True, kw_only=True):
    """A part of a message: text, or a refusal that is text too."""

    type: str | None = "text"
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Inner, frozen=True, kw_only=True):
    """A function's name, and its arguments as JSON."""

    name: str
    arguments: str | None = None


class CallPart(Inner, frozen=True, kw_only=True):
    """A call that an assistant made earlier."""

    id: str
    function: CalledFunction


class ChatMessage(Inner, frozen=True, kw_only=True):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None


class FunctionSpec(Inner, frozen=True, kw_only=True):
    """A function on offer; `parameters` is a JSON schema. Its arguments are always held to it; `strict` refuses what no grammar holds."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Inner, frozen=True, kw_only=True):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionSpec


class Named(Inner, frozen=True, kw_only=True):
    """The name of a tool."""

    name: str


class AllowedTools(Inner, frozen=True, kw_only=True):
    """Those of the tools that may be called."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ChosenTool(Inner, frozen=True, kw_only=True):
    """The one tool that is to be called, or the few that may be."""

    type: Literal["function", "allowed_tools"]
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(Inner, frozen=True, kw_only=True):
    """A schema that the reply is always held to; `strict` refuses what no grammar holds."""

    name: str | None = "reply"
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Inner, tag="text", tag_field="type", frozen=True, kw_only=True):
    """Plain text."""


class JsonObjectFormat(Inner, tag="json_object", tag_field="type", frozen=True, kw_only=True):
    """Any JSON object."""


class JsonSchemaFormat(Inner, tag="json_schema", tag_field="type", frozen=True, kw_only=True):
    """JSON of one schema."""

    json_schema: JsonSchema


class StreamOptions(Inner, frozen=True, kw_only=True):
    """What a stream has beside the text."""

    include_usage: bool | None = None


class Sampled(Ignored, frozen=True, kw_only=True):
    """What chat completions and completions share. Defaults are the model's own preset."""

    model: str | None = None
    stream: bool | None = None
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
    ignore_eos: bool | None = None
    timeout: float | None = None  # seconds
    priority: int | None = None
    grammar: str | None = None  # Lark
    regex: str | None = None


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
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None  # default: when the last message is the assistant's


class CompletionRequest(Sampled, frozen=True, kw_only=True):
    """POST /v1/completions. A prompt may be text, tokens, or a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: TopLogprobs | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
    special: bool | None = None  # read the names of special tokens in the prompt as those tokens


class EmbeddingsRequest(Ignored, frozen=True, kw_only=True):
    """POST /v1/embeddings. An input may be text, tokens, or a list of either."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    pooling: Literal["mean", "last"] | None = None
    timeout: float | None = None  # seconds
    priority: int | None = None


class ModerationsRequest(Ignored, frozen=True, kw_only=True):
    """POST /v1/moderations. `model` may be any name: the server has one judge."""

    input: str | list[str | ContentPart]
    model: str | None = None


class TokenizeRequest(Body, frozen=True, kw_only=True):
    """POST /tokenize: text, or messages as the model would be shown them."""

    text: str | None = None
    messages: list[ChatMessage] | None = None
    special: bool | None = None  # read the names of special tokens in the text as those tokens
    model: str | None = None


class DetokenizeRequest(Body, frozen=True, kw_only=True):
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None
