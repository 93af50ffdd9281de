"""What is attacked: a model on herd's engine, in batches, or any OpenAI-compatible URL."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from herd.engine.agent import Agent
from herd.engine.remote import Remote
from herd.engine.request import SamplingParams
from herd.errors import HerdError, first_line
from herd.text.messages import Message


@dataclass(frozen=True)
class Reply:
    """What came back for dialog `index`, or why nothing did. `tokens` are those generated."""

    index: int
    text: str = ""
    tokens: int = 0
    error: str = ""


class Target(Protocol):
    """Anything that replies to dialogs, in any order."""

    def replies(self, dialogs: Sequence[Sequence[Message]]) -> Iterator[Reply]:
        """A reply for each dialog; one that fails has an `error`."""
        ...


@dataclass(frozen=True)
class Local:
    """A model on the engine; greedy, so that a dialog has one reply."""

    agent: Agent
    max_tokens: int = 64

    def replies(self, dialogs: Sequence[Sequence[Message]]) -> Iterator[Reply]:
        """All of them in the engine together."""
        import msgspec

        params = SamplingParams(temperature=0, max_tokens=self.max_tokens)
        requests = []
        for i, dialog in enumerate(dialogs):
            try:
                request = self.agent.turns(dialog, params).request()
                requests.append(msgspec.structs.replace(request, id=str(i)))
            except HerdError as error:
                yield Reply(i, error=str(error))
        for done in self.agent.engine.run(requests):
            failed = "" if done.error is None else str(done.error)
            yield Reply(int(done.request.id), done.text, done.usage.completion, failed)


@dataclass(frozen=True)
class Served:
    """A model behind a URL, open."""

    remote: Remote
    max_tokens: int = 64
    at_a_time: int = 4

    def replies(self, dialogs: Sequence[Sequence[Message]]) -> Iterator[Reply]:
        """A few at a time."""
        with ThreadPoolExecutor(self.at_a_time) as pool:
            yield from pool.map(self._reply, range(len(dialogs)), dialogs)

    def _reply(self, index: int, dialog: Sequence[Message]) -> Reply:
        body = {"messages": list(_spoken(dialog)), "temperature": 0, "max_tokens": self.max_tokens}
        try:
            answer = self.remote.post("chat/completions", body)
            text = answer["choices"][0]["message"].get("content") or ""
            return Reply(index, text, int((answer.get("usage") or {}).get("completion_tokens", 0)))
        except HerdError as error:
            return Reply(index, error=str(error))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return Reply(index, error=f"not a chat completion ({first_line(error)})")


def _spoken(dialog: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """A dialog in OpenAI's words."""
    for i, message in enumerate(dialog):
        if message.role == "ipython":
            yield {"role": "tool", "tool_call_id": f"call_{i - 1}", "content": message.content}
        elif message.tool_calls:
            calls = [
                {"id": f"call_{i}", "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
                for c in message.tool_calls
            ]  # fmt: skip
            yield {"role": "assistant", "content": message.content or None, "tool_calls": calls}
        else:
            yield {"role": message.role, "content": message.content}
