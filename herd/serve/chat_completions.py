"""POST /v1/chat/completions, as OpenAI documents it."""

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from herd.engine.agent import Offer, Part
from herd.engine.request import TokenLogprob, Usage
from herd.errors import RequestError
from herd.serve.gate import Share
from herd.serve.job import (
    add,
    executed,
    held_text,
    prefilled,
    relax,
    template_variables,
    told,
    usage,
    warned,
    watched,
    with_preset,
)
from herd.serve.messages import chat_offer, conversation
from herd.serve.reply import Accepted, ensure_finished, reply, sampling
from herd.serve.schema import ChatRequest, JsonObjectFormat, JsonSchemaFormat
from herd.serve.schema_check import SchemaCheck
from herd.serve.served import Served, limits


@dataclass
class _Choice:
    """One reply as it grows."""

    text: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


class ChatJob:
    """One request, checked and ready to run. Making it raises RequestError for what cannot be served."""

    def __init__(self, served: Served, body: ChatRequest, share: Share) -> None:
        if body.top_logprobs is not None and not body.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        self.served, self.body, self.share = served, body, share
        self.params = sampling(
            served, body, max_tokens=limit, logprobs=(body.top_logprobs or 0) if body.logprobs else None
        )
        self.limits = limits(served, body, share.begun)
        messages = with_preset(served, conversation(body.messages))
        self.messages, self.prefill = prefilled(messages, body.continue_final_message)
        self.notes: list[str] = []
        self.grammar = held_text(body.grammar, body.regex)
        self.offer, self.check = self._offer()
        self.accepted, self.replies = Accepted(), self.params.n
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.watch, self.messages = watched(served, self.messages, self.prefill, id=self.id, user=share.user)
        self.created = int(time.time())

    def _offer(self) -> tuple[Offer, SchemaCheck]:
        body, form = self.body, self.body.response_format
        offer = chat_offer(body.tools or (), body.tool_choice, body.parallel_tool_calls, self.served.toolbox.tools)
        offer = Offer(
            offer.tools,
            offer.choice,
            offer.parallel,
            offer.allowed,
            None,
            template_variables(body.chat_template_kwargs),
        )
        strict = {tool.function.name for tool in body.tools or () if tool.function.strict}
        if form is None or not isinstance(form, JsonObjectFormat | JsonSchemaFormat):
            return relax(offer, None, self.notes, "response_format", strict)
        if self.grammar is not None:
            raise RequestError("give one of response_format, grammar and regex", param="response_format")
        schema = (form.json_schema.schema if isinstance(form, JsonSchemaFormat) else None) or {"type": "object"}
        if isinstance(form, JsonSchemaFormat) and form.json_schema.strict:
            strict.add("response_format")
        return relax(offer, schema, self.notes, "response_format", strict)

    def parts(self) -> AsyncIterator[Part]:
        """The replies as they come."""
        return reply(
            self.served, self.messages, self.params, self.offer, self.limits, grammar=self.grammar,
            prefill=self.prefill, user=self.share.user, accepted=self.accepted, watch=self.watch, check=self.check,
        )  # fmt: skip

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
                choice.calls.append(_opened(part.opens))
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
        return told(warned({**answer, "executed_tools": ran} if ran else answer, self.notes), self.watch, self.check)

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
            yield warned(chunk(index, {"role": "assistant", "content": ""}), self.notes if not index else ())
        total, calls = Usage(0, 0, 0), [0] * self.params.n
        async for part in parts:
            ensure_finished(part.reason)
            if part.text or part.logprobs:
                scores = [self._score(score) for score in part.logprobs]
                shown = {"content": scores, "refusal": None} if self.body.logprobs else None
                yield chunk(part.index, {"content": part.text}, scores=shown)
            if part.opens:
                yield chunk(part.index, {"tool_calls": [{"index": calls[part.index], **_opened(part.opens)}]})
                calls[part.index] += 1
            if part.arguments:
                more = {"index": calls[part.index] - 1, "function": {"arguments": part.arguments}}
                yield chunk(part.index, {"tool_calls": [more]})
            if part.result is not None:
                yield {**chunk(part.index, {}), "executed_tools": [executed(part.result)]}
            if part.usage is not None:
                total = add(total, part.usage)
                yield told(chunk(part.index, {}, _reason(part, bool(calls[part.index]))), self.watch, self.check)
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


def _opened(name: str) -> dict[str, Any]:
    """A call whose arguments are to come."""
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": ""}}


def _reason(part: Part, called: bool) -> str:
    return "tool_calls" if called and part.reason == "stop" else part.reason or "stop"
