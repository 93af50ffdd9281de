"""The tools of Llama 3.1's prompts, as herd has them: code_interpreter in a sandbox, a calculator in place of
wolfram_alpha, a search of local documents in place of brave_search.
"""

from collections.abc import Sequence
from pathlib import Path

from herd.errors import ConfigError, RequestError
from herd.text.messages import Tool
from herd.tools import ToolBox
from herd.tools.calculator import calculate
from herd.tools.sandbox import Sandbox
from herd.tools.search import Index

NAMES = ("code_interpreter", "calculator", "search")


def _one(name: str) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"}},
        "required": [name],
        "additionalProperties": False,
    }


def _text(arguments: dict[str, object], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise RequestError(f"the argument {name!r} is missing; expected text")
    return value


def add_tools(box: ToolBox, names: Sequence[str], documents: Path | None = None) -> None:
    """Put the tools called `names` in a box; ConfigError for what is unknown or cannot work here."""
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"--tools {name}: expected some of {', '.join(NAMES)}")
    if documents is not None and "search" not in names:
        names = [*names, "search"]
    if "code_interpreter" in names:
        sandbox = Sandbox()
        sandbox.check()
        box.add(
            Tool("code_interpreter", "Run Python code and get what it prints.", _one("code")),
            lambda arguments, seconds: sandbox.run(_text(arguments, "code"), seconds),
        )
    if "calculator" in names:
        box.add(
            Tool("calculator", "Compute arithmetic, like sqrt(2) * 3**4 or 15% of 80.", _one("query")),
            lambda arguments, _: calculate(_text(arguments, "query")),
        )
    if "search" in names:
        if documents is None:
            raise ConfigError("--tools search needs --documents FOLDER")
        index = Index(documents)
        box.closers.append(index.close)
        box.add(
            Tool("search", "Search the documents on this machine.", _one("query")),
            lambda arguments, _: index.search(_text(arguments, "query")),
        )
