"""A conversation with a model: keeps the messages, makes room when the context is full, streams replies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from herd.atomic import atomic_file
from herd.engine.engine import Engine
from herd.engine.request import Request, SamplingParams, Usage
from herd.errors import FormatError, RequestError
from herd.text.chat_format import ChatFormat
from herd.text.messages import Message, Tool, ToolCall
from herd.text.tool_calls import ReplyParser

_ROOM = 256  # tokens kept free for a reply when old turns are dropped


MAX_STEPS = 8
"""Turns of the model that may follow one another while tools are run."""


class ToolResult(msgspec.Struct, frozen=True):
    """What running a call gave."""

    call: ToolCall
    output: str


@dataclass
class Conversation:
    """`messages` may begin with a system message; `tools` and `builtin` ones are offered to the model.

    `run` computes what a call gives; without it calls are for the caller to answer.
    """

    engine: Engine
    format: ChatFormat
    params: SamplingParams = field(default_factory=SamplingParams)
    messages: list[Message] = field(default_factory=list)
    tools: Sequence[Tool] = ()
    builtin: Sequence[str] = ()
    run: Callable[[ToolCall], str] | None = None
    usage: Usage | None = None
    dropped: int = 0

    def say(self, text: str) -> Iterator["str | ToolCall | ToolResult"]:
        """The reply to a user's text, in parts, with what tools gave where they are run. What was said stays in `messages` even when left early."""
        self.messages.append(Message("user", text))
        for _ in range(MAX_STEPS):
            calls: list[ToolCall] = []
            for part in self._reply():
                if not isinstance(part, str):
                    calls.append(part)
                yield part
            if not calls or self.run is None:
                return
            for call in calls:
                output = self.run(call)
                self.messages.append(Message("ipython", output))
                yield ToolResult(call, output)

    def _reply(self) -> Iterator[str | ToolCall]:
        """One turn of the model's."""
        prompt = self._prompt()
        offered = bool(self.tools or self.builtin)
        parser = ReplyParser(frozenset((*(tool.name for tool in self.tools), *self.builtin)) if offered else None)
        params = msgspec.structs.replace(self.params, show_special=self.format.show_special, n=1, echo=False)
        spoken: list[str] = []
        calls: list[ToolCall] = []

        def keep(parts: list[str | ToolCall]) -> Iterator[str | ToolCall]:
            for part in parts:
                (spoken if isinstance(part, str) else calls).append(part)  # type: ignore[arg-type]
                yield part

        reason = None
        try:
            for event in self.engine.generate(Request(prompt=prompt, params=params)):
                yield from keep(parser.push(event.text) if offered else [event.text])
                if event.finish_reason:
                    reason, self.usage = event.finish_reason, event.usage
            yield from keep(parser.finish(cut_off=reason != "stop"))
        finally:
            tag = parser.python_tag if calls else None
            expects = bool(calls and self.builtin)
            self.messages.append(Message("assistant", "".join(spoken), tuple(calls), expects or bool(tag), tag))

    def _prompt(self) -> list[int]:
        """Tokens of the conversation; its oldest turns are dropped while it is too long."""
        limit = self.engine.max_length - min(_ROOM, self.engine.max_length // 4)
        while True:
            prompt = self.format.encode(self.messages, tools=self.tools, builtin_tools=self.builtin).tokens
            if len(prompt) <= limit:
                return prompt
            first = 1 if self.messages and self.messages[0].role == "system" else 0
            if len(self.messages) - first <= 1:
                self.messages.pop()
                raise RequestError(f"the message has {len(prompt):,} tokens; the model takes {limit:,}; shorten it")
            del self.messages[first]
            self.dropped += 1
            while len(self.messages) > first + 1 and self.messages[first].role != "user":
                del self.messages[first]

    def save(self, path: Path) -> None:
        """Write the messages as JSON."""
        with atomic_file(path) as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self.messages)) + b"\n")

    def load(self, path: Path) -> None:
        """Replace the messages by those of a file that `save` wrote; FormatError when it is not one."""
        try:
            self.messages = msgspec.json.decode(path.read_bytes(), type=list[Message])
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: not a saved conversation ({error})") from error
