"""The model that is served: its engine, its chat format, its tools, and the limits of requests to it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from herd.engine.agent import Agent
from herd.engine.engine import Engine
from herd.engine.grammar import Grammars, forced_calls
from herd.engine.request import Request, SamplingParams
from herd.engine.schemas import relaxed
from herd.errors import RequestError
from herd.safety.shield import Shield
from herd.safety.watch import Watch
from herd.serve.errors import ApiError
from herd.serve.metrics import Meter, Metrics
from herd.serve.pools import Pools
from herd.serve.store import Store
from herd.text.chat_format import ChatFormat
from herd.text.messages import Message, Tool
from herd.tools import ToolBox
from herd.weights.presets import Preset


@dataclass
class Served:
    """One model behind the API, in memory. `toolbox` are the tools that the server itself runs; it, `metrics`, `pools`, `store` and
    `shield` are the server's, for all its models.
    """

    name: str
    engine: Engine
    format: ChatFormat | None  # None: a base model without a chat format
    preset: Preset
    metrics: Metrics
    toolbox: ToolBox = field(default_factory=ToolBox)
    max_prompt: int | None = None  # tokens
    timeout: float | None = None  # seconds, for requests that name none
    use_preset: bool = True  # for requests without a system message, or without sampling
    pools: Pools = field(default_factory=Pools)
    store: Store = field(default_factory=Store)
    shield: Shield | None = None
    left_out: dict[str, str] = field(default_factory=dict)  # tools that cannot be offered, and why
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grammars = Grammars(self.engine.tokenizer, self.engine.config.vocab)
        self.meter = Meter(self.metrics, self.name)
        self._agent = None if self.format is None else Agent(self.engine, self.format, self.toolbox, self.grammars)

    def agent(self) -> Agent:
        """What replies to conversations; ApiError for a model without a chat format."""
        if self._agent is None:
            raise ApiError(400, f"{self.name} has no chat format; use /v1/completions", code="no_chat_format")
        return self._agent

    def watch(self, messages: Sequence[Message], prefill: str = "") -> Watch | None:
        """What looks at one request and its answer; None without a Shield."""
        return None if self.shield is None else self.shield.watch(messages, prefill=prefill)

    def admit_tools(self) -> None:
        """Leave out, and say why in `left_out`, tools that calls cannot be held to: one such would fail every request."""
        for name, (tool, run) in list(self.toolbox.runners.items()):
            try:
                parameters, dropped = relaxed(tool.parameters)
                self.grammars.constraint(forced_calls([Tool(name, tool.description, parameters)], several=False))
            except RequestError as error:
                del self.toolbox.runners[name]
                self.left_out[name] = str(error)
            else:
                self.toolbox.runners[name] = (Tool(name, tool.description, parameters), run)
                self.notes += [f"{name}: {what} is not held to" for what in dropped]

    def warm_up(self) -> None:
        """Touch all weights once, so that the first client does not wait for them."""
        self.engine.complete(Request(prompt=[0], params=SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)))

    def close(self) -> None:
        """Stop what is this model's own."""
        self.grammars.close()
        self.engine.close()


class Limits(msgspec.Struct, frozen=True):
    """How a request is treated, beside its sampling: seconds that it may take, and its place in the line."""

    timeout: float | None = None
    priority: int = 0


def limits(served: Served, body: Any = None, begun: float | None = None) -> Limits:
    """The limits of a request: no longer than the server allows, and no place before others. `begun` is when it came."""
    timeout, priority = getattr(body, "timeout", None), getattr(body, "priority", None) or 0
    if timeout is not None and not timeout > 0:
        raise ApiError(400, f"timeout is {timeout}; expected seconds above 0", param="timeout")
    if not 0 <= priority < 2**31:
        raise ApiError(400, f"priority is {priority}; expected 0, the first in line, or more", param="priority")
    allowed = [seconds for seconds in (timeout, served.timeout) if seconds is not None]
    most = min(allowed, default=None)
    if most is not None and begun is not None:
        most = max(0.001, most - (time.monotonic() - begun))
    return Limits(most, priority)


def check_prompt(served: Served, length: int) -> None:
    """RequestError for a prompt longer than this server takes."""
    if served.max_prompt is not None and length > served.max_prompt:
        raise RequestError(
            f"the prompt has {length:,} tokens; this server takes {served.max_prompt:,}", code="context_length_exceeded"
        )
