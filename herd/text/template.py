"""Chat templates of other models: messages -> OpenAI's keys -> text -> tokens, where only the template writes special tokens.

The strings of a conversation can hold the names of special tokens, and templates write those names as plain text. So
every such name is broken with a marker before rendering, and the marker is taken out again after the special tokens
that the template itself wrote have been found.

How a template takes calls is found by rendering a conversation that has one, as nothing else tells it.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from herd.errors import RequestError
from herd.text.messages import Message, Tool, ToolCall
from herd.text.template_sandbox import GENERATION, compiled, run, variables_of
from herd.text.tokenizer import Encoded, Span, Tokenizer, covered, well_formed

_MARKERS = tuple(chr(0xFDD0 + i) for i in range(32))  # Unicode noncharacters


class ChatTemplate:
    """A model's own template. FormatError when it does not compile, RequestError when it refuses a conversation.

    `tokens` are what it may name: bos_token, eos_token and others of a tokenizer's settings.
    """

    def __init__(self, source: str, *, tokens: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._tokens = {"bos_token": "", "eos_token": "", **(tokens or {})}
        self._template = compiled(source)

    def reads(self, name: str) -> bool:
        """Whether the template uses a variable: `tools`, or what {% generation %} writes."""
        return name in variables_of(self.source)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        reply: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as one string; `reply` adds the start of the assistant's turn."""
        given = {
            **self._tokens, GENERATION[0]: "", GENERATION[1]: "", **(variables or {}), "messages": list(messages),
            "tools": tools, "documents": None, "add_generation_prompt": reply,
        }  # fmt: skip
        return run(self._template, given, len(messages))

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        reply: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """Token ids; only what the template itself wrote can be a special token."""
        text = json.dumps([messages, tools], ensure_ascii=False)
        free = [marker for marker in _MARKERS if marker not in text]
        if len(free) < 3:
            raise RequestError("messages: use nearly every noncharacter from U+FDD0 to U+FDEF; leave three out")
        marker, *edges = free[:3]
        guard = _guard(tuple(sorted(tokenizer.special_tokens, key=len, reverse=True)), marker)
        guarded, offered = guard(list(messages)), guard(tools)

        def render(first: int, reply: bool, more: Mapping[str, Any] | None = None) -> str:
            given = {**(variables or {}), **(more or {})}
            return self.render(guarded[:first], tools=offered, reply=reply, variables=given)

        whole = render(len(guarded), reply)

        def spans() -> list[Span]:
            if self.reads(GENERATION[0]):
                marked = render(len(guarded), reply, dict(zip(GENERATION, edges, strict=True)))
                return _between(marked, edges, whole)
            ends = [name for name, token in tokenizer.special_tokens.items() if token in tokenizer.stop_ids]
            return _turns(guarded, whole, ends, render)

        parts = _parts(tokenizer, whole, marker)
        tokens = [token for _, _, ids in parts for token in ids]
        return Encoded(tokens, lambda: _mask(tokenizer, parts, spans(), marker))


Part = tuple[int, str, list[int]]  # where it starts in the rendered text, the text, its tokens


def _parts(tokenizer: Tokenizer, rendered: str, marker: str) -> list[Part]:
    """The rendered text cut into special tokens and the text between them."""
    special = tokenizer.special_tokens
    names = sorted(special, key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", rendered) if names else [rendered]
    parts, start = [], 0
    for piece in pieces:
        if piece:
            ids = [special[piece]] if piece in special else tokenizer.encode(piece.replace(marker, ""))
            parts.append((start, piece, ids))
        start += len(piece)
    return parts


def _between(marked: str, edges: list[str], whole: str) -> list[Span]:
    """What stands between generation marks, as positions in the text without them."""
    spans, begun, at = [], 0, 0
    for piece in re.split(f"({edges[0]}|{edges[1]})", marked):
        if piece == edges[0]:
            begun = at
        elif piece == edges[1]:
            spans.append((begun, at))
        else:
            at += len(piece)
    if marked.replace(edges[0], "").replace(edges[1], "") != whole:
        raise RequestError("chat template: {% generation %} marks text that the template changes afterwards")
    return [span for span in spans if span[0] < span[1]]


def _turns(messages: list[Any], whole: str, ends: list[str], render: Callable[[int, bool], str]) -> list[Span]:
    """Each assistant's turn: what the conversation up to it has more than the prompt that asks for it.

    Whitespace after the token that ends a turn (`ends`) is the template's, not the assistant's.
    """
    spans = []
    for i, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        prompt, turn = render(i, True), render(i + 1, False)
        if not (whole.startswith(turn) and turn.startswith(prompt)):
            raise RequestError(
                f"chat template: writes message {i + 1} differently when others follow it, so what the assistant wrote cannot be"
                " told apart; give each reply as a conversation of its own, or use a template with {% generation %} tags"
            )
        end = max(turn.rfind(name) + len(name) for name in ends if name in turn) if any(n in turn for n in ends) else 0
        spans.append((len(prompt), end if end > len(prompt) and not turn[end:].strip() else len(turn)))
    return spans


def _mask(tokenizer: Tokenizer, parts: list[Part], spans: list[Span], marker: str) -> list[bool]:
    """Whether each token has a part in a span."""
    mask: list[bool] = []
    here = 0  # spans are in order: the first that has not ended
    for start, piece, ids in parts:
        while here < len(spans) and spans[here][1] <= start:
            here += 1
        stop = bisect_left(spans, start + len(piece), here, key=itemgetter(0))
        inside = [(max(a - start, 0), min(b - start, len(piece))) for a, b in spans[here:stop]]
        if not inside or inside == [(0, len(piece))] or len(ids) == 1:
            mask += [bool(inside)] * len(ids)
            continue
        lengths = [len(tokenizer.token_bytes(token)) for token in ids]
        if sum(lengths) != _size(piece, marker):
            raise RequestError("chat template: this tokenizer changes the text, so turns cannot be found in its tokens")
        mask += covered(lengths, [(_size(piece[:a], marker), _size(piece[:b], marker)) for a, b in inside])
    return mask


def _size(text: str, marker: str) -> int:
    return len(well_formed(text.replace(marker, "")))


def _guard(names: tuple[str, ...], marker: str) -> Callable[[Any], Any]:
    """A function that breaks every special token's name, and every beginning of one at a string's end, in a value."""
    inside = re.compile("|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in names)) if names else None
    beginnings = {name[:i] for name in names for i in range(1, len(name))}
    longest = max(map(len, names), default=0)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            if inside is None:
                return value
            value = inside.sub(lambda m: m[0] + marker, value)
            for length in range(min(longest, len(value)), 0, -1):
                if value[-length:] in beginnings:
                    return value[: len(value) - length + 1] + marker + value[len(value) - length + 1 :]
            return value
        if isinstance(value, dict):
            return {walk(key): walk(item) for key, item in value.items()}
        return [walk(item) for item in value] if isinstance(value, list) else value

    return walk


class CallsForm(NamedTuple):
    """`arguments`: as an object, as a JSON string, or calls as text; `results`: whether tools' messages are written."""

    arguments: Literal["object", "string", "text"]
    results: bool


def call_id(number: int) -> str:
    """An id for a conversation's call; some templates want nine letters and digits, and no others."""
    return f"call{number:05}"


def message_dicts(messages: Sequence[Message], form: CallsForm) -> list[dict[str, Any]]:
    """Messages with OpenAI's keys; a tool's output belongs to the calls before it, in their order."""
    plain: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # ids and names of calls without a result so far
    count = 0
    for message in messages:
        if message.role == "ipython":
            call, name = waiting.pop(0) if waiting else (call_id(count), "")
            if form.results:
                named = {"name": name} if name else {}
                plain.append({"role": "tool", "content": message.content, "tool_call_id": call, **named})
            elif plain and plain[-1].get("result"):
                plain[-1]["content"] += "\n" + message.content
            else:
                plain.append({"role": "user", "content": message.content, "result": True})
            continue
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        waiting = [(call_id(count + i), call.name) for i, call in enumerate(message.tool_calls)]
        count += len(waiting)
        if message.tool_calls and form.arguments == "text":
            written = "\n".join(_call_text(call) for call in message.tool_calls)
            one["content"] = f"{message.content}\n{written}" if message.content else written
        elif message.tool_calls:
            one["tool_calls"] = [
                call_dict(call, waiting[i][0], as_string=form.arguments == "string")
                for i, call in enumerate(message.tool_calls)
            ]
        plain.append(one)
    for one in plain:
        one.pop("result", None)
    return plain


def call_dict(call: ToolCall, number: str, *, as_string: bool) -> dict[str, Any]:
    """A call with OpenAI's keys; transformers wants its arguments as an object, OpenAI as JSON."""
    arguments = json.dumps(call.arguments, ensure_ascii=False) if as_string else call.arguments
    return {"type": "function", "id": number, "function": {"name": call.name, "arguments": arguments}}


def _call_text(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False)


def tool_dict(tool: Tool) -> dict[str, Any]:
    """A function with OpenAI's keys."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


_CALL = ToolCall("herd_probe_name", {"herd_probe_key": "herd_probe_value"})
_RESULT = "herd_probe_result"
_TOOL = Tool(
    _CALL.name, "Probe", {"type": "object", "properties": {"herd_probe_key": {"type": "string", "description": ""}}}
)


def calls_form(template: ChatTemplate) -> CallsForm:
    """How a template takes calls and results."""
    return _calls_form(template.source)


@lru_cache(maxsize=64)
def _calls_form(source: str) -> CallsForm:
    template = ChatTemplate(source)

    def written(arguments: Literal["object", "string", "text"], results: bool) -> str:
        called = [Message("user", "Probe."), Message("assistant", "", (_CALL,)), Message("ipython", _RESULT)]
        with_tool = [tool_dict(_TOOL)] if template.reads("tools") else None
        try:
            text = template.render(message_dicts(called, CallsForm(arguments, results)), tools=with_tool)
            listed = template.render(message_dicts(called[:1], CallsForm("object", True)), tools=with_tool)
        except RequestError:
            return ""
        more = text.count(_CALL.name) > listed.count(_CALL.name)
        return text if more and "herd_probe_value" in text and (_RESULT in text or not results) else ""

    for results in (True, False):
        found = written("object", results)
        if found and "'herd_probe_key'" not in found:  # else Python's form of a dict
            return CallsForm("object", results)
        found = written("string", results)
        if found and '\\"herd_probe_key' not in found:
            return CallsForm("string", results)
    return CallsForm("text", bool(written("text", True)))
