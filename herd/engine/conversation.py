"""A conversation with a model: keeps the messages, makes room when the context is full, streams replies."""

import bisect
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from herd.atomic import atomic_file
from herd.engine.agent import Agent, Offer, Part, ToolResult, Turns
from herd.engine.request import SamplingParams, Usage
from herd.errors import FormatError, RequestError
from herd.text.messages import Message, Tool, ToolCall

_ROOM = 256  # tokens kept free for a reply without a limit when old turns are dropped


@dataclass
class Conversation:
    """`messages` may begin with a system message; `tools` are functions for the caller to answer, beside the agent's own.

    `reply` makes the replies in the agent's place: a guard that stands between.
    """

    agent: Agent
    params: SamplingParams = field(default_factory=SamplingParams)
    messages: list[Message] = field(default_factory=list)
    tools: Sequence[Tool] = ()
    usage: Usage | None = None
    dropped: int = 0
    reply: Callable[[Turns], Generator[Part]] | None = None

    def say(self, text: str) -> Generator[str | ToolCall | ToolResult]:
        """The reply to a user's text, in parts, with what tools gave where they are run.

        What was said stays in `messages` when the reply is left early. A turn that fails, or is left before anything was
        said, leaves the conversation as it was.
        """
        messages = [*self.messages, Message("user", text)]
        turns = self.agent.turns(messages, msgspec.structs.replace(self.params, n=1), Offer(tuple(self.tools)))
        turns.messages = list(self._fitting(turns, messages))
        asked = len(turns.messages)
        said: list[str] = []  # since the last whole message
        try:
            with closing((self.reply or self.agent.reply)(turns)) as parts:
                for part in parts:
                    if part.text:
                        said.append(part.text)
                        yield part.text
                    if part.call is not None:
                        yield part.call
                    if part.result is not None:
                        said.clear()
                        yield part.result
                    self.usage = part.usage or self.usage
        except (GeneratorExit, KeyboardInterrupt):
            self._keep(turns.messages, asked, "".join(said), len(messages) - asked)
            raise
        self._keep(turns.messages, asked, "", len(messages) - asked)

    def _keep(self, messages: list[Message], asked: int, said: str, dropped: int) -> None:
        """Take over what has been said, if anything has; calls that were left without a result get one."""
        if messages[-1].role != "assistant":
            messages = [*messages, Message("assistant", said)] if said else messages
        elif self.agent.box.names() & {call.name for call in messages[-1].tool_calls}:
            messages = [*messages, Message("ipython", "stopped by the user")]
        if len(messages) > asked:
            self.messages, self.dropped = messages, self.dropped + dropped

    def _fitting(self, turns: Turns, messages: list[Message]) -> list[Message]:
        """The messages without the oldest turns, as many as must go for a whole reply to fit."""
        context, first = self.agent.engine.max_length, int(messages[0].role == "system")
        reply = min(_ROOM, context // 4) if self.params.max_tokens is None else self.params.max_tokens
        starts = [first, *(i for i, m in enumerate(messages) if i > first and m.role == "user")]

        def length(start: int) -> int:
            return len(turns.prompt([*messages[:first], *messages[start:]]))

        if length(first) + reply <= context:
            return messages
        at = bisect.bisect_left(starts, True, key=lambda start: length(start) + reply <= context)
        if at == len(starts):
            raise RequestError(
                f"the message has {length(starts[-1]):,} tokens, and {reply:,} are kept for the reply; the model takes "
                f"{context:,}; shorten it or ask for a shorter reply",
                code="context_length_exceeded",
            )
        return [*messages[:first], *messages[starts[at] :]]

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
