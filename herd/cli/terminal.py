"""The terminal chat: a line to type in, Markdown as it streams, and a few /commands."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from rich.console import Console

from herd.cli.common import show_call
from herd.cli.markdown import show_markdown
from herd.config import read
from herd.engine.agent import ToolResult
from herd.engine.conversation import Conversation
from herd.engine.request import SamplingParams
from herd.errors import ConfigError, in_one_line
from herd.text.messages import Message, Tool, ToolCall

_HELP = """\
/help               this text
/system [TEXT]      show or set the system message; starts anew
/reset              forget the conversation
/save FILE          write the conversation as JSON
/load FILE          continue a saved conversation
/params [KEY=VALUE] show or change temperature, top_p, top_k, seed, max_tokens, ...
/tools [FILE]       show the functions on offer, or offer those of a JSON file
/speed              switch the tokens-per-second line on or off
/quit               leave (Ctrl-D too)
Alt-Enter starts a new line; Ctrl-C stops a reply."""


class Terminal:
    """Runs a conversation until the user leaves."""

    def __init__(
        self, conversation: Conversation, name: str, state: Path, note: str, *, speed: bool, plain: bool
    ) -> None:
        self._conversation, self._speed, self._plain = conversation, speed, plain
        self._console = Console(no_color=plain, highlight=False)
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self._print(_HELP),
            "system": self._system,
            "reset": lambda _: self._reset(),
            "save": self._save,
            "load": self._load,
            "params": self._params,
            "tools": self._tools,
            "speed": lambda _: self._toggle_speed(),
        }
        self._print(f"{name}. /help lists the commands, Ctrl-D leaves.")
        history = None
        try:
            state.mkdir(parents=True, exist_ok=True)
            history = FileHistory(str(state / "chat_history"))
            told = state / "told_small_model"
            if note and not told.exists():
                self._print(note)
                told.touch()
        except OSError:
            self._print(f"(history is not kept: {state} cannot be written)")
        keys = KeyBindings()
        for pressed, handler in ((("escape", "enter"), _new_line), (("enter",), _submit)):
            keys.add(*pressed)(handler)
        self._session: PromptSession[str] = PromptSession(
            history=history or InMemoryHistory(), multiline=True, key_bindings=keys, prompt_continuation="  "
        )

    def run(self) -> None:
        """Read, answer, until Ctrl-D or /quit."""
        while True:
            try:
                text = self._session.prompt("> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text in ("/quit", "/exit"):
                return
            try:
                if text.startswith("/"):
                    self._command(text)
                elif text:
                    self._answer(text)
            except Exception as error:
                line = in_one_line(error)
                if line is None:
                    raise
                self._print(line)

    def _print(self, text: str) -> None:
        self._console.print(text, style=None if self._plain else "dim", markup=False)

    def _command(self, text: str) -> None:
        name, _, rest = text[1:].partition(" ")
        if name not in self._commands:
            raise ConfigError(f"/{name} is no command; /help lists them")
        self._commands[name](rest.strip())

    def _answer(self, text: str) -> None:
        if self._stopped_already():
            self._print("(stopped)")
            return
        dropped = self._conversation.dropped
        started = first = time.monotonic()
        parts = self._conversation.say(text)
        before = signal.signal(signal.SIGINT, self._interrupt)
        self._stop = False
        try:
            shown = self._timed(parts)
            if self._plain:
                for piece in shown:
                    self._console.print(piece, end="", markup=False, soft_wrap=True)
                self._console.print()
            else:
                show_markdown(self._console, shown)
            first = self._first
        except KeyboardInterrupt:
            self._print("(stopped)")
        finally:
            signal.signal(signal.SIGINT, before)
            parts.close()
        if self._conversation.dropped > dropped:
            self._print("(the oldest turns no longer fit the context and were dropped)")
        usage = self._conversation.usage
        if self._speed and usage is not None:
            spent = time.monotonic() - first
            rate = (usage.completion - 1) / spent if spent and usage.completion > 1 else 0
            self._print(
                f"{usage.completion} tokens at {rate:.1f} a second; first after {first - started:.2f} s "
                f"({usage.prompt} of prompt, {usage.cached} cached)"
            )

    def _interrupt(self, *_: object) -> None:
        """Ctrl-C. It is noted too: an exception that is raised inside a finalizer is lost."""
        self._stop = True
        raise KeyboardInterrupt

    def _stopped_already(self) -> bool:
        """Whether Ctrl-C was typed while the line before was still being taken in; what else was typed is kept."""
        source = self._session.input
        keys = [*get_typeahead(source), *source.read_keys()]
        stops = [i for i, key in enumerate(keys) if key.key == Keys.ControlC]
        store_typeahead(source, keys[stops[-1] + 1 :] if stops else keys)
        return bool(stops)

    def _timed(self, parts: Iterator[str | ToolCall | ToolResult]) -> Iterator[str]:
        self._first = 0.0
        for part in parts:
            if self._stop:
                raise KeyboardInterrupt
            self._first = self._first or time.monotonic()
            yield part if isinstance(part, str) else f"\n\n{show_call(part)}\n\n"

    def _reset(self) -> None:
        messages = self._conversation.messages
        del messages[1 if messages and messages[0].role == "system" else 0 :]
        self._print("A new conversation.")

    def _system(self, text: str) -> None:
        messages = self._conversation.messages
        if text:
            self._conversation.messages = [Message("system", text)]
            self._print("System message set; a new conversation.")
        else:
            self._print(messages[0].content if messages and messages[0].role == "system" else "(no system message)")

    def _save(self, name: str) -> None:
        if not name:
            raise ConfigError("/save needs a file name")
        self._conversation.save(Path(name).expanduser())
        self._print(f"Saved to {name}.")

    def _load(self, name: str) -> None:
        if not name:
            raise ConfigError("/load needs a file name")
        self._conversation.load(Path(name).expanduser())
        self._print(f"{len(self._conversation.messages)} messages from {name}.")

    def _params(self, text: str) -> None:
        current = msgspec.to_builtins(self._conversation.params)
        if text:
            pairs = dict(pair.partition("=")[::2] for pair in text.split())
            values = {key: None if value == "none" else value for key, value in pairs.items()}
            params = read(SamplingParams, None, {**current, **values})
            params.check(self._conversation.agent.engine.config.vocab)
            self._conversation.params = params
        shown = msgspec.to_builtins(self._conversation.params)
        self._print(
            "  ".join(f"{key}={value}" for key, value in shown.items() if value not in (None, (), [], {}, False))
        )

    def _tools(self, name: str) -> None:
        if name:
            try:
                data = Path(name).expanduser().read_bytes()
                self._conversation.tools = msgspec.json.decode(data, type=list[Tool])
            except (OSError, msgspec.MsgspecError) as error:
                raise ConfigError(f"{name}: expected a JSON list of name, description, parameters ({error})") from error
        listed = [f"{tool.name}: {tool.description}" for tool in self._conversation.tools]
        self._print("\n".join(listed) or "No functions on offer; /tools FILE reads them from JSON.")

    def _toggle_speed(self) -> None:
        self._speed = not self._speed
        self._print(f"Tokens per second: {'on' if self._speed else 'off'}.")


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def _submit(event: KeyPressEvent) -> None:
    event.current_buffer.validate_and_handle()
