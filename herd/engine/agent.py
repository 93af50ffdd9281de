"""The agent loop: messages in, parts out. A model replies, the tools that it calls are run, and it goes on.

Chat and server use it, and so does all else in which a model calls tools. `Agent.reply` waits on the caller's thread,
`Agent.areply` in asyncio; what happens between the waits stands once, in `Turns`.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from herd.engine.engine import Engine
from herd.engine.request import Constraint, Event, Request, SamplingParams
from herd.engine.turns import MAX_STEPS, Offer, Part, ToolResult, Turns
from herd.text.chat_format import ChatFormat
from herd.text.messages import Message, ToolCall
from herd.tools import ToolBox

if TYPE_CHECKING:
    from herd.engine.grammar import Grammars

__all__ = ["MAX_STEPS", "Agent", "Offer", "Part", "ToolResult", "Turns"]


@dataclass
class Agent:
    """A model with its tools. Calls are held to the tools' schemas where llguidance (of the serve extra) is installed."""

    engine: Engine
    format: ChatFormat
    box: ToolBox = field(default_factory=ToolBox)
    grammars: "Grammars | None" = None  # made when first needed, if not given
    _making: threading.Lock = field(default_factory=threading.Lock)

    def constraint(self, grammar: str) -> Callable[[], Constraint]:
        """What holds a reply to a grammar. It may take a moment. MissingDependencyError without llguidance."""
        from herd.engine.grammar import Grammars

        with self._making:
            if self.grammars is None:
                self.grammars = Grammars(self.engine.tokenizer, self.engine.config.vocab)
        return self.grammars.constraint(grammar)

    def turns(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        offer: Offer | None = None,
        *,
        grammar: str | None = None,
        prefill: str = "",
        priority: int = 0,
        seconds: float | None = None,
    ) -> Turns:
        """A reply that is to be made, beginning with `prefill`; RequestError for one that cannot be."""
        return Turns(
            self,
            messages,
            params,
            offer or Offer(),
            grammar=grammar,
            prefill=prefill,
            priority=priority,
            seconds=seconds,
        )

    def reply(self, turns: Turns) -> Generator[Part]:
        """The reply, and what tools gave, as they come."""
        while turns.more:
            for event in self.engine.generate(turns.request()):
                yield from turns.push(event)
            for call in turns.due():
                yield turns.begin(call)
                yield turns.answer(call, self.box.run(call, turns.seconds_left()))
            yield from turns.end()

    async def areply(
        self,
        turns: Turns,
        ask: Callable[[], Awaitable[Request]],
        generate: Callable[[Request], AsyncIterator[Event]],
        run: Callable[[ToolCall, float | None], Awaitable[str]],
    ) -> AsyncIterator[Part]:
        """`reply` for asyncio. `ask` gives `turns.request()` and `run` what a tool gives, both on threads of the caller's;
        `generate` is the engine's `agenerate`, or passes its events on.
        """
        while turns.more:
            async for event in generate(await ask()):
                for part in turns.push(event):
                    yield part
            for call in turns.due():
                yield turns.begin(call)
                yield turns.answer(call, await run(call, turns.seconds_left()))
            for part in turns.end():
                yield part
