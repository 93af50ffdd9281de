"""Tools that herd itself runs for a model, and the box that holds them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from herd.errors import HerdError, first_line
from herd.text.messages import Tool, ToolCall

BUILTIN = {"code_interpreter": "code_interpreter", "calculator": "wolfram_alpha", "search": "brave_search"}
"""Tools by the names that Llama 3.1 was trained to call them by."""
MAX_OUTPUT = 20_000
"""Characters of a tool's output that a model is shown."""

Run = Callable[[dict[str, object], float | None], str]
"""What runs a tool: arguments, and the seconds it may take (None: its own limit) -> what it gives."""


@dataclass
class ToolBox:
    """Tools and how to run them. `closers` are called when the box is done with."""

    runners: dict[str, tuple[Tool, Run]] = field(default_factory=dict)
    closers: list[Callable[[], None]] = field(default_factory=list)

    def names(self) -> frozenset[str]:
        """All names that a call may have."""
        return frozenset(self.runners) | {BUILTIN[name] for name in self.runners if name in BUILTIN}

    @property
    def tools(self) -> list[Tool]:
        """What a model is offered."""
        return [tool for tool, _ in self.runners.values()]

    def add(self, tool: Tool, run: Run) -> None:
        """Put a tool in; one of the same name gives way."""
        self.runners[tool.name] = (tool, run)

    def __enter__(self) -> "ToolBox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, call: ToolCall, seconds: float | None = None) -> str:
        """What a call gives within `seconds`, for the model to read: also when it fails, for then the model can try again."""
        name = next((ours for ours, trained in BUILTIN.items() if trained == call.name), call.name)
        if name not in self.runners:
            return f"error: there is no tool called {call.name!r}"
        try:
            output = self.runners[name][1](call.arguments, seconds)
        except HerdError as error:
            output = f"error: {error}"
        except Exception as error:  # a tool can raise anything
            output = f"error: the tool failed ({first_line(error)})"
        if len(output) > MAX_OUTPUT:
            output = output[:MAX_OUTPUT] + f"\n[{len(output) - MAX_OUTPUT:,} more characters left out]"
        return output

    def close(self) -> None:
        """Stop what the tools keep running."""
        for close in self.closers:
            close()
        self.closers.clear()
