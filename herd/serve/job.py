"""What the endpoints that generate have in common: parts that come, told whole or as a stream."""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Protocol

from herd.engine.agent import Offer, ToolResult
from herd.engine.grammar import regex_grammar
from herd.engine.request import Usage
from herd.engine.schemas import relaxed
from herd.errors import RequestError
from herd.safety.watch import Watch
from herd.serve.reply import Accepted
from herd.serve.schema_check import SchemaCheck, checkable
from herd.serve.served import Served
from herd.text.messages import Message, Tool

_LONGEST_GRAMMAR = 50_000  # characters; compiling takes time that grows with them
_LONGEST_SCHEMA = 200_000


class Job(Protocol):
    """One request, checked and ready to run. `accepted` is set when the engine has taken it."""

    accepted: Accepted
    replies: int

    def parts(self) -> AsyncIterator[Any]:
        """The replies as they come."""
        ...

    async def whole(self, parts: AsyncIterator[Any]) -> dict[str, Any]:
        """The answer in one object."""
        ...

    def chunks(self, parts: AsyncIterator[Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer in the pieces of a stream."""
        ...


def with_preset(served: Served, messages: list[Message]) -> list[Message]:
    """The messages, after the preset's system message where they have none."""
    if not served.use_preset or not served.preset.system or any(message.role == "system" for message in messages):
        return messages
    return [Message("system", served.preset.system), *messages]


def prefilled(messages: list[Message], wanted: bool | None = None) -> tuple[list[Message], str]:
    """The messages, and the beginning of the reply that the client wrote: an assistant's message that comes last."""
    last = messages[-1]
    if wanted is False or last.role != "assistant" or last.tool_calls:
        if wanted and last.role != "assistant":
            raise RequestError("continue_final_message: the last message is not the assistant's", param="messages")
        return messages, ""
    return messages[:-1], last.content


def held_text(grammar: str | None, regex: str | None) -> str | None:
    """The grammar that a request's whole text is held to, if any."""
    if grammar is not None and regex is not None:
        raise RequestError("give one of response_format, grammar and regex", param="grammar")
    for name, text in (("grammar", grammar), ("regex", regex)):
        if text is not None and len(text) > _LONGEST_GRAMMAR:
            raise RequestError(
                f"{name} has {len(text):,} characters; expected {_LONGEST_GRAMMAR:,} at most", param=name
            )
    return grammar if regex is None else regex_grammar(regex)


def several(given: str | list[Any], name: str) -> list[str | list[int]]:
    """What the field `name` holds: one or several, text or tokens."""
    if isinstance(given, str) or (given and all(isinstance(item, int) for item in given)):
        return [given]
    if not given or any(isinstance(item, int) for item in given):
        raise RequestError(
            f"{name} is an empty or a mixed list; expected text, tokens, or a list of one of them", param=name
        )
    return list(given)


def template_variables(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Variables for the chat template; RequestError for what could pass for the conversation or a special token."""
    for name, value in (given or {}).items():
        if (
            name in ("messages", "tools", "add_generation_prompt")
            or name.endswith("_token")
            or "<" in json.dumps(value)
        ):
            raise RequestError(
                f"chat_template_kwargs.{name}: expected a variable of the template's own, and no < in it",
                param=f"chat_template_kwargs.{name}",
            )
    return given


def relax(
    offer: Offer, content: dict[str, Any] | None, notes: list[str], where: str, strict: Collection[str] = ()
) -> tuple[Offer, SchemaCheck]:
    """The offer with schemas that replies can be held to, and the check of what they are not held to; `notes` say what that is.

    RequestError where a function of `strict`, or the schema of texts by its name `where`, has such a part.
    """
    left: dict[str, dict[str, Any]] = {}

    def held(schema: dict[str, Any], name: str, what: str, param: str) -> dict[str, Any]:
        try:
            found, dropped = relaxed(_bounded(schema, what, param))
        except RequestError as error:
            raise RequestError(f"{what}: {error}", param=error.param or param) from error
        if dropped and name in strict:
            raise RequestError(
                f"{what}: strict does not go with {dropped[0]}, which no grammar holds; without strict replies are checked for it",
                param=param, code="invalid_json_schema",
            )  # fmt: skip
        for one in dropped:
            looked = checkable(one, schema)
            notes.append(f"{name}: {one} is not held to" + ("; replies are checked for it" if looked else ""))
            if looked:
                left[name] = schema
        return found

    tools = tuple(
        Tool(tool.name, tool.description, held(tool.parameters, tool.name, f"the parameters of {tool.name}", "tools"))
        for tool in offer.tools
    )
    if content is not None:
        content = held(content, where, "the schema", where)
    text = left.pop(where, None)
    made = Offer(tools, offer.choice, offer.parallel, offer.allowed, content, offer.variables)
    return made, SchemaCheck(where, text, left)


def _bounded(schema: dict[str, Any], what: str, param: str) -> dict[str, Any]:
    if (size := len(json.dumps(schema))) > _LONGEST_SCHEMA:
        raise RequestError(f"{what} is {size:,} characters long; expected {_LONGEST_SCHEMA:,} at most", param=param)
    return schema


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


def executed(result: ToolResult) -> dict[str, Any]:
    """A call that the server ran."""
    return {"name": result.call.name, "arguments": result.call.arguments, "output": result.output}


def warned(answer: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """An answer, with what the client should know of it."""
    return {**answer, "warnings": list(notes)} if notes else answer


def watched(
    served: Served, messages: list[Message], prefill: str = "", **about: str
) -> tuple[Watch | None, list[Message]]:
    """What looks at a request under the server's Shield, and the messages as the model may see them. `about` is for its log."""
    watch = served.watch(messages, prefill)
    if watch is None:
        return None, messages
    watch.about = about
    return watch, watch.clean()


def told(answer: dict[str, Any], watch: Watch | None, check: SchemaCheck | None = None) -> dict[str, Any]:
    """An answer, with what the Shield saw, for which the request is over, and where it is not as its schemas say."""
    if check:
        answer = {**answer, "schema_violations": check.found}
    if watch is None or (report := watch.report()) is None:
        return answer
    return {**answer, "safety": report}
