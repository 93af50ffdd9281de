"""POST /v1/chat/completions, as OpenAI documents it."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from herd.engine.agent import Offer, Part, ToolResult
from herd.engine.grammar import json_grammar, regex_grammar
from herd.engine.request import SamplingParams, TokenLogprob, Usage
from herd.serve.errors import ApiError
from herd.serve.reply import ensure_finished, reply, sampling
from herd.serve.schema import (
    ChatMessage,
    ChatRequest,
    ChosenTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    Sampled,
    ToolSpec,
)
from herd.serve.served import Served, limits
from herd.text.messages import Message, Tool, ToolCall


@dataclass
class _Choice:
    """One reply as it grows."""

    text: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


class ChatJob:
    """One request, checked and ready to run. Making it raises ApiError for what cannot be served."""

    def __init__(self, served: Served, body: ChatRequest) -> None:
        if body.store:
            raise ApiError(400, "store: this server keeps no conversations", param="store")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise ApiError(400, "max_tokens and max_completion_tokens are the same; give one", param="max_tokens")
        self.served, self.body = served, body
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        self.params: SamplingParams = sampling(
            served, body, max_tokens=limit, logprobs=(body.top_logprobs or 0) if body.logprobs else None
        )
        self.limits = limits(served, body)
        self.messages = conversation(body.messages)
        self.offer = offer(body.tools, body.tool_choice, body.parallel_tool_calls, served.toolbox.tools)
        self.grammar = constraint(body, body.response_format)
        if self.grammar is not None and self.offer.choice not in ("auto", "none"):
            raise ApiError(
                400, "tool_choice cannot force a call and response_format hold the text", param="tool_choice"
            )
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def parts(self) -> AsyncIterator[Part]:
        """The replies as they come."""
        return reply(self.served, self.messages, self.params, self.offer, self.limits, self.grammar)

    async def whole(self, parts: AsyncIterator[Part]) -> dict[str, Any]:
        """The answer in one object."""
        choices = [_Choice() for _ in range(self.params.n)]
        total, ran = Usage(0, 0, 0), []
        async for part in parts:
            ensure_finished(part.reason)
            choice = choices[part.index]
            choice.text += part.text
            choice.scores += map(self._score, part.logprobs)
            if part.opens:
                choice.calls.append(opened_call(part.opens))
            if part.arguments:
                choice.calls[-1]["function"]["arguments"] += part.arguments
            if part.result is not None:
                ran.append(executed(part.result))
            if part.usage is not None:
                total = add(total, part.usage)
                choice.reason = _reason(part, bool(choice.calls))
        found = [
            {
                "index": i,
                "message": {
                    "role": "assistant", "content": choice.text if choice.text or not choice.calls else None, "refusal": None,
                    **({"tool_calls": choice.calls} if choice.calls else {}),
                },
                "logprobs": {"content": choice.scores, "refusal": None} if self.body.logprobs else None,
                "finish_reason": choice.reason,
            }
            for i, choice in enumerate(choices)
        ]  # fmt: skip
        answer = {**self._head("chat.completion"), "choices": found, "usage": usage(total)}
        return {**answer, "executed_tools": ran} if ran else answer

    async def chunks(self, parts: AsyncIterator[Part]) -> AsyncIterator[dict[str, Any]]:
        """The answer in the pieces of a stream."""
        options = self.body.stream_options
        extra: dict[str, Any] = {"usage": None} if options and options.include_usage else {}
        head = {**self._head("chat.completion.chunk"), **extra}

        def chunk(index: int, delta: dict[str, Any], reason: str | None = None, scores: Any = None) -> dict[str, Any]:
            return {
                **head,
                "choices": [{"index": index, "delta": delta, "logprobs": scores, "finish_reason": reason}],
            }

        for index in range(self.params.n):
            yield chunk(index, {"role": "assistant", "content": ""})
        total, calls = Usage(0, 0, 0), [0] * self.params.n
        async for part in parts:
            ensure_finished(part.reason)
            if part.text or part.logprobs:
                scores = [self._score(score) for score in part.logprobs]
                shown = {"content": scores, "refusal": None} if self.body.logprobs else None
                yield chunk(part.index, {"content": part.text}, scores=shown)
            if part.opens:
                yield chunk(part.index, {"tool_calls": [{"index": calls[part.index], **opened_call(part.opens)}]})
                calls[part.index] += 1
            if part.arguments:
                more = {"index": calls[part.index] - 1, "function": {"arguments": part.arguments}}
                yield chunk(part.index, {"tool_calls": [more]})
            if part.result is not None:
                yield {**chunk(part.index, {}), "executed_tools": [executed(part.result)]}
            if part.usage is not None:
                total = add(total, part.usage)
                yield chunk(part.index, {}, _reason(part, bool(calls[part.index])))
        if extra:
            yield {**head, "choices": [], "usage": usage(total)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.served.name,
            "system_fingerprint": None,
        }  # fmt: skip

    def _score(self, score: TokenLogprob) -> dict[str, Any]:
        def one(token: int, logprob: float) -> dict[str, Any]:
            data = self.served.engine.tokenizer.token_bytes(token)
            return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

        return {**one(score.token, score.logprob), "top_logprobs": [one(*other) for other in score.top]}


def conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """OpenAI's messages as the dialog encoder takes them; ApiError names a message that makes no sense."""
    if not messages:
        raise ApiError(400, "messages is empty; expected at least one message", param="messages")
    found = []
    asked: set[str] = set()
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        content = message.content
        text = content if isinstance(content, str) else "".join(part.text for part in content or ())
        if message.role == "tool":
            if message.tool_call_id not in asked:
                raise ApiError(
                    400, f"{where}.tool_call_id is {message.tool_call_id!r}; expected the id of a call made before it",
                    param=f"{where}.tool_call_id",
                )  # fmt: skip
            found.append(Message("ipython", text))
            continue
        if message.tool_calls and message.role != "assistant":
            raise ApiError(400, f"{where}.tool_calls: only the assistant calls tools", param=f"{where}.tool_calls")
        if content is None and not message.tool_calls:
            raise ApiError(400, f"{where}.content is required", param=f"{where}.content")
        calls = tuple(
            ToolCall(call.function.name, _arguments(call.function.arguments, f"{where}.tool_calls[{k}]"))
            for k, call in enumerate(message.tool_calls or ())
        )
        asked |= {call.id for call in message.tool_calls or ()}
        role: Any = "system" if message.role == "developer" else message.role
        found.append(Message(role, text, calls))
    return found


def _arguments(text: str, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ApiError(
            400, f"{where}.function.arguments is not a JSON object", param=f"{where}.function.arguments"
        ) from error


def offer(
    tools: Sequence[ToolSpec] | None, choice: str | ChosenTool | None, parallel: bool | None, own: Sequence[Tool] = ()
) -> Offer:
    """What the client's tools and tool_choice mean, beside tools of the server's own."""
    offered = tuple(
        Tool(tool.function.name, tool.function.description or "", tool.function.parameters or {})
        for tool in tools or ()
    )
    names = [tool.name for tool in offered]
    if len(set(names)) < len(names):
        raise ApiError(400, "tools: two have the same name", param="tools")
    wanted = choice.function.name if isinstance(choice, ChosenTool) else choice or "auto"
    if isinstance(choice, ChosenTool) and wanted not in {*names, *(tool.name for tool in own)}:
        raise ApiError(400, f"tool_choice names {wanted!r}, which is not among tools", param="tool_choice")
    if wanted == "required" and not (offered or own):
        raise ApiError(400, "tool_choice is required, and there are no tools", param="tool_choice")
    return Offer(offered, wanted, True if parallel is None else parallel)


def constraint(body: Sampled, wanted: Any) -> str | None:
    """The grammar that a request's text is held to, if any."""
    found = []
    if isinstance(wanted, JsonObjectFormat):
        found.append(json_grammar())
    if isinstance(wanted, JsonSchemaFormat):
        found.append(json_grammar(wanted.json_schema.schema))
    if body.grammar is not None:
        found.append(body.grammar)
    if body.regex is not None:
        found.append(regex_grammar(body.regex))
    if len(found) > 1:
        raise ApiError(400, "give one of response_format, grammar and regex", param="response_format")
    return found[0] if found else None


def add(total: Usage, part: Usage) -> Usage:
    """Usage of several replies to one prompt."""
    return Usage(part.prompt, total.completion + part.completion, max(total.cached, part.cached))


def usage(total: Usage) -> dict[str, Any]:
    """Usage as OpenAI counts it."""
    return {
        "prompt_tokens": total.prompt,
        "completion_tokens": total.completion,
        "total_tokens": total.prompt + total.completion,
        "prompt_tokens_details": {"cached_tokens": total.cached},
    }


def opened_call(name: str) -> dict[str, Any]:
    """A call whose arguments are to come."""
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": ""}}


def executed(result: ToolResult) -> dict[str, Any]:
    """A call that the server ran."""
    return {"name": result.call.name, "arguments": result.call.arguments, "output": result.output}


def _reason(part: Part, called: bool) -> str:
    return "tool_calls" if called and part.reason == "stop" else part.reason or "stop"
