"""Prompts -> requests -> answers, one or a file of them; a file's run continues where it was interrupted."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from herd import config as settings
from herd.engine.engine import Engine
from herd.engine.request import Event, Request, SamplingParams
from herd.errors import ConfigError, RequestError
from herd.text.chat_format import chat_format
from herd.text.messages import Message
from herd.weights.checkpoint import Checkpoint
from herd.weights.presets import preset_for

_AHEAD = 64  # requests given to the engine at a time


class Prompter:
    """Makes requests of prompts for one model: its chat format or plain text, its preset, the user's settings."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        raw: bool = False,
        system: str | None = None,
        config: Path | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = checkpoint.tokenizer
        self._format = None if raw else chat_format(self._tokenizer, checkpoint.chat_template)
        preset = preset_for(checkpoint.config)
        self._system = preset.system if system is None else system
        self.params = settings.read(SamplingParams, config, flags, values={} if raw else preset.params())

    @staticmethod
    def read_prompt(file: Path) -> str:
        """A prompt from a file."""
        try:
            return file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read as text ({error})") from error

    def request(
        self, prompt: str, *, system: str | None = None, params: SamplingParams | None = None, name: str = ""
    ) -> Request:
        """A request for one prompt."""
        if self._format is None:
            tokens = self._tokenizer.encode(prompt)
            if self._tokenizer.bos_id is not None:
                tokens.insert(0, self._tokenizer.bos_id)
        else:
            spoken = self._system if system is None else system
            messages = [Message("system", spoken)] if spoken else []
            tokens = self._format.encode([*messages, Message("user", prompt)]).tokens
        return Request(prompt=tokens, params=params or self.params, id=name)

    def parse(self, line: bytes, number: int, where: str) -> Request:
        """A line of a batch file; ConfigError naming the line."""
        try:
            values = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{where}:{number}: not a JSON object ({error})") from error
        prompt, system = values.pop("prompt", None), values.pop("system", None)
        values.pop("id", None)
        if not isinstance(prompt, str) or not isinstance(system, str | None):
            raise ConfigError(f"{where}:{number}: expected an object with a string `prompt`")
        try:
            params = settings.read(SamplingParams, values={**msgspec.structs.asdict(self.params), **values})
        except ConfigError as error:
            raise ConfigError(f"{where}:{number}: {error}") from error
        return self.request(prompt, system=system, params=params, name=str(number))

    def answers(self, engine: Engine, requests: Request | list[Request]) -> Iterator[dict[str, Any]]:
        """Finished completions, as they finish."""
        parts: dict[tuple[str, int], list[Event]] = {}
        for event in engine.generate(requests):
            events = parts.setdefault((event.request, event.index), [])
            events.append(event)
            if event.finish_reason is not None and event.usage is not None:
                del parts[event.request, event.index]
                answer: dict[str, Any] = {
                    "request": event.request,
                    "index": event.index,
                    "text": "".join(e.text for e in events),
                    "tokens": [t for e in events for t in e.tokens],
                    "finish_reason": event.finish_reason,
                    "usage": event.usage,
                }
                logprobs = [item for e in events for item in e.logprobs]
                if logprobs:
                    answer["logprobs"] = logprobs
                yield answer


def run_batch(engine: Engine, prompter: Prompter, source: Path, out: Path, progress: Any) -> None:
    """Answer every line of `source` into `out`, skipping lines that `out` has whole answers for already."""
    try:
        lines = [(i, line) for i, line in enumerate(source.read_bytes().splitlines(), 1) if line.strip()]
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror})") from error
    done = _finished(out)
    requests = [prompter.parse(line, number, str(source)) for number, line in lines]
    todo = [r for r in requests if any((int(r.id), index) not in done for index in range(r.params.n))]
    task = progress.add_task("answers", total=len(requests), completed=len(requests) - len(todo))
    with out.open("ab") as file:
        for first in range(0, len(todo), _AHEAD):
            for answer in prompter.answers(engine, todo[first : first + _AHEAD]):
                key = (int(answer.pop("request")), answer["index"])
                if key in done:
                    continue
                file.write(msgspec.json.encode({"line": key[0], **answer}) + b"\n")
                file.flush()
                progress.advance(task)
            os.fsync(file.fileno())


def _finished(out: Path) -> set[tuple[int, int]]:
    """Lines and completions that `out` has; half a line at its end, from an interruption, is cut off."""
    if not out.exists():
        return set()
    data = out.read_bytes()
    whole = data.rfind(b"\n") + 1
    found = set()
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            answer = msgspec.json.decode(line, type=dict[str, Any])
            found.add((int(answer["line"]), int(answer["index"])))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{out}:{number}: not an answer of an earlier run; name another output file") from error
    if whole < len(data):
        with out.open("r+b") as file:
            file.truncate(whole)
    return found
