"""The API described: an OpenAPI 3.1 document made from the types that requests are checked with, and a page of it."""

import html
from functools import cache
from typing import Any

import msgspec

from herd import __version__
from herd.serve.anthropic_schema import MessagesRequest
from herd.serve.ollama import OllamaRequest
from herd.serve.responses_schema import ResponsesRequest
from herd.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    ModerationsRequest,
    TokenizeRequest,
)

_REF = "#/components/schemas/{name}"
# path, method, summary, body, what comes back
_ENDPOINTS: tuple[tuple[str, str, str, type[Any] | None, str], ...] = (
    ("/v1/chat/completions", "post", "Reply to a conversation, with tools, held to a schema, streamed or whole.", ChatRequest, "A chat.completion, or chat.completion.chunk events."),
    ("/v1/completions", "post", "Continue plain text or tokens.", CompletionRequest, "A text_completion, or events of the same shape."),
    ("/v1/embeddings", "post", "Vectors of texts: the model's final hidden states, pooled, of length 1.", EmbeddingsRequest, "A list of embeddings."),
    ("/v1/moderations", "post", "Whether texts are harmful, or attack a model.", ModerationsRequest, "OpenAI's moderation; `herd` has the scores by Llama Guard's categories."),
    ("/v1/responses", "post", "The Responses API over the same replies.", ResponsesRequest, "A response, or its events."),
    ("/v1/messages", "post", "Anthropic's Messages API over the same replies.", MessagesRequest, "A message, or its events."),
    ("/v1/messages/count_tokens", "post", "How many tokens Anthropic's messages are.", MessagesRequest, "input_tokens."),
    ("/api/chat", "post", "Ollama's chat over the same replies.", OllamaRequest, "A reply, or lines of one."),
    ("/api/tags", "get", "The models, in Ollama's list.", None, "models."),
    ("/api/ps", "get", "The models in memory, in Ollama's list.", None, "models."),
    ("/api/version", "get", "The version, for Ollama's clients.", None, "version."),
    ("/v1/models", "get", "The models that are served.", None, "A list of models, each with its state, context, preset and tools."),
    ("/v1/models/{name}", "get", "A model by its name.", None, "The model."),
    ("/tokenize", "post", "Tokens of a text, or of messages as the model is shown them.", TokenizeRequest, "tokens and their count."),
    ("/detokenize", "post", "The text of tokens.", DetokenizeRequest, "text."),
    ("/health", "get", "200 when requests can be served, 503 while the model loads or when it has stopped.", None, "status, the first model, version, and the state of each model."),
    ("/metrics", "get", "Metrics for Prometheus.", None, "Text."),
    ("/docs", "get", "This description, for people.", None, "A page."),
    ("/openapi.json", "get", "This description.", None, "OpenAPI 3.1."),
    ("/", "get", "The chat page.", None, "A page."),
)  # fmt: skip
_ERRORS = {
    "400": "The request is wrong; `param` names the field.", "401": "No valid key.", "403": "Not from this origin.",
    "404": "No such model (`model_not_found`).", "413": "The body is too large.", "429": "Too many requests; see Retry-After.",
    "503": "Not ready, the model cannot be loaded (`model_not_loaded`), or shutting down.", "504": "The request's time was up.",
}  # fmt: skip


@cache
def openapi() -> dict[str, Any]:
    """The document."""
    bodies = [body for *_, body, _ in _ENDPOINTS if body is not None]
    shapes, components = msgspec.json.schema_components(bodies, ref_template=_REF)
    schema = dict(zip(bodies, shapes, strict=True))
    paths: dict[str, Any] = {}
    for path, method, summary, body, answer in _ENDPOINTS:
        operation: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": answer}}}
        if body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema[body]}}}
            for status, text in _ERRORS.items():
                error = {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}
                operation["responses"][status] = {"description": text, "content": error}
        if "{name}" in path:
            operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths.setdefault(path, {})[method] = operation
    nullable = {"type": ["string", "null"]}
    fields = {"message": {"type": "string"}, "type": {"type": "string"}, "param": nullable, "code": nullable}
    components["Error"] = {
        "type": "object", "required": ["error"],
        "properties": {"error": {"type": "object", "properties": fields, "required": list(fields)}},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "herd", "version": __version__, "description": "An OpenAI-compatible API for Llama models."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def docs_page() -> str:
    """The document as a page without scripts."""
    spec = openapi()
    rows = []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            rows.append(f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            rows.append(f"<p>{html.escape(operation['summary'])}</p>")
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                name = content["schema"]["$ref"].rsplit("/", 1)[1]
                rows.append(_fields(spec["components"]["schemas"], name))
            rows.append(f"<p>Answer: {html.escape(operation['responses']['200']['description'])}</p></section>")
    errors = "".join(f"<tr><td>{status}</td><td>{html.escape(text)}</td></tr>" for status, text in _ERRORS.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>herd: API</title><link rel="stylesheet" href="page/docs.css"><main><h1>herd</h1>'
        '<p>An OpenAI-compatible API. The same as <a href="openapi.json">OpenAPI 3.1</a>; <a href="./">chat</a>.</p>'
        f"{''.join(rows)}<section><h2>Errors</h2><table>{errors}</table></section></main></html>"
    )


def _fields(schemas: dict[str, Any], name: str) -> str:
    shape = schemas[name]
    rows = []
    for field, schema in shape["properties"].items():
        need = " required" if field in shape.get("required", []) else ""
        rows.append(f"<tr><td><code>{html.escape(field)}</code></td><td>{html.escape(_kind(schema))}{need}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(repr(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "any"))
