"""Chat templates of other models: Jinja in its immutable sandbox, bounded in time, memory and output.

The strings of a conversation can hold the names of special tokens, and templates write those names as plain text. So
every such name is broken with a marker before rendering, and the marker is taken out again after the special tokens
that the template itself wrote have been found.
"""

import datetime
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import FrameType
from typing import Any

from herd.errors import FormatError, RequestError, first_line
from herd.text.messages import Message, Tool
from herd.text.tokenizer import Tokenizer

_MAX_SECONDS = 2.0
_MAX_OUTPUT = 16_000_000  # characters
_MAX_GROWTH = 512_000  # KiB of resident memory
_MARKERS = tuple(chr(0xFDD0 + i) for i in range(32))  # Unicode noncharacters


class ChatTemplate:
    """A model's own template. FormatError when it does not compile, RequestError when it refuses a conversation."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._template = _compile(source)

    def render(
        self, messages: Sequence[dict[str, Any]], *, tools: Sequence[dict[str, Any]] | None = None, reply: bool = True
    ) -> str:
        """The conversation as one string; `reply` adds the start of the assistant's turn."""
        variables = {**self._tokens, "messages": list(messages), "tools": tools, "add_generation_prompt": reply}
        with _Bounds() as bounds:
            pieces: list[str] = []
            length = 0
            try:
                for piece in self._template.generate(variables):
                    length += len(piece)
                    if length > _MAX_OUTPUT:
                        raise RequestError(f"chat template: more than {_MAX_OUTPUT} characters of output")
                    pieces.append(piece)
            except (RequestError, KeyboardInterrupt):
                raise
            except Exception as error:  # a template can raise anything
                if bounds.exceeded:
                    raise RequestError(f"chat template: {bounds.exceeded}") from error
                raise RequestError(f"chat template refuses this conversation: {first_line(error)}") from error
        return "".join(pieces)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        reply: bool = True,
    ) -> list[int]:
        """Token ids; only what the template itself wrote can be a special token."""
        plain: Any = [message_dict(message) for message in messages]
        offered: Any = [_tool_dict(tool) for tool in tools] or None
        text = json.dumps([plain, offered], ensure_ascii=False)
        marker = next((m for m in _MARKERS if m not in text), None)
        if marker is None:
            raise RequestError("messages: use every noncharacter from U+FDD0 to U+FDEF; leave one out")
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        guard = _guard(tuple(names), marker)
        rendered = self.render(guard(plain), tools=guard(offered), reply=reply)
        if not names:
            return tokenizer.encode(rendered.replace(marker, ""))
        tokens: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, names)) + ")", rendered):
            if part in tokenizer.special_tokens:
                tokens.append(tokenizer.special_tokens[part])
            elif part:
                tokens += tokenizer.encode(part.replace(marker, ""))
        return tokens


def message_dict(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it (OpenAI's keys)."""
    role = "tool" if message.role == "ipython" else message.role
    plain: dict[str, Any] = {"role": role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return plain


def _tool_dict(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


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


class _Bounds:
    """Stops a template that runs too long or grows the process too much, by looking after every line of it."""

    def __init__(self) -> None:
        self.exceeded = ""

    def __enter__(self) -> "_Bounds":
        self._deadline = time.monotonic() + _MAX_SECONDS
        self._memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _MAX_GROWTH
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "call" and frame.f_code.co_filename != "<template>":
            return None
        if time.monotonic() > self._deadline:
            self.exceeded = f"ran for more than {_MAX_SECONDS:g} seconds"
        elif resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._memory:
            self.exceeded = "used too much memory"
        if self.exceeded:
            raise TimeoutError(self.exceeded)
        return self._trace


def _bounded(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result could be huge."""
    limit = 1_000_000
    if operator == "**":
        size = abs(right) * 64 if isinstance(right, int) and isinstance(left, int) else 0
    elif operator == "*":
        counts = [len(x) if isinstance(x, str | list | tuple) else x for x in (left, right)]
        sized = any(isinstance(x, str | list | tuple) for x in (left, right))
        size = counts[0] * counts[1] if sized and all(isinstance(c, int) for c in counts) else 0
        if not sized and all(isinstance(x, int) for x in (left, right)):
            size = left.bit_length() + right.bit_length()
    else:  # %, where a width can ask for any amount of padding
        size = limit + 1 if isinstance(left, str) and re.search(r"\d{5,}|\*", left) else 0
    if size > limit:
        raise RequestError(f"chat template: the result of {operator!r} would be too large")


def _raise(message: str) -> None:
    raise RequestError(f"chat template: {message}")


def _padding(name: str) -> Callable[..., str]:
    def refuse(*_: Any, **__: Any) -> str:
        raise RequestError(f"chat template: the filter {name!r} is not offered")

    return refuse


@lru_cache(maxsize=16)
def _compile(source: str) -> Any:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _bounded(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            padding = ("center", "ljust", "rjust", "zfill", "format", "format_map", "expandtabs", "translate")
            return not (isinstance(obj, str) and attr in padding) and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Any:
            return _padding("str.format") if super().wrap_str_format(value) is not None else None

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], cache_size=0
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(str(form)[:100])
    environment.globals.pop("lipsum", None)
    environment.filters["tojson"] = lambda value, indent=None, **_: json.dumps(value, ensure_ascii=False, indent=indent)
    for name in ("center", "format", "wordwrap"):
        environment.filters[name] = _padding(name)
    plain_indent = environment.filters["indent"]
    environment.filters["indent"] = lambda s, width=4, *rest, **kw: plain_indent(
        s, min(width, 64) if isinstance(width, int) else str(width)[:64], *rest, **kw
    )
    if len(source) > 1_000_000:
        raise FormatError("chat template: longer than 1,000,000 characters")
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
        raise FormatError(f"chat template does not compile: {first_line(error)}") from error
