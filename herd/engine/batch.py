"""Prompts -> requests -> answers, one or a file of them; a file's run continues where it was interrupted."""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from herd import config as settings
from herd.atomic import atomic_file, writing
from herd.engine.engine import Engine
from herd.engine.request import Completion, Request, SamplingParams
from herd.errors import ConfigError, RequestError
from herd.progress import Progress, silent
from herd.text.messages import Message
from herd.text.tokenizer import encode_special
from herd.weights.checkpoint import Checkpoint
from herd.weights.presets import preset_for

_LONGEST = 16 << 20  # bytes of a line: several times what fills a context of 131,072 tokens
_LONGEST_TEXT = 256 << 20


class Prompt(msgspec.Struct, frozen=True):
    """A line of a batch file; without `system` the model's preset speaks."""

    line: int
    text: str
    params: SamplingParams
    system: str | None = None


class Prompter:
    """Makes requests of prompts for one model: its chat format or plain text, its preset, the user's settings."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        raw: bool = False,
        special: bool = False,
        system: str | None = None,
        config: Path | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        if special and not raw:
            raise ConfigError("--special goes with --raw: in a chat only the chat format writes special tokens")
        self._tokenizer, self._special = checkpoint.tokenizer, special
        self._format = None if raw else checkpoint.chat_format()
        preset = preset_for(checkpoint)
        self._system = preset.system if system is None else system
        self.params = settings.read(SamplingParams, config, flags, values={} if raw else preset.params())

    @staticmethod
    def read_prompt(file: Path) -> str:
        """A prompt, or a text to calibrate with, from a file; ConfigError for what is no text or does not end."""
        try:
            with file.open("rb") as opened:
                data = opened.read(_LONGEST_TEXT + 1)
            if len(data) > _LONGEST_TEXT:
                raise ConfigError(f"{file}: is longer than {_LONGEST_TEXT >> 20} MiB; give a part of it")
            return data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read as text ({error})") from error

    def request(
        self, prompt: str, *, system: str | None = None, params: SamplingParams | None = None, name: str = ""
    ) -> Request:
        """A request for one prompt."""
        if self._format is None:
            tokens = encode_special(self._tokenizer, prompt) if self._special else self._tokenizer.encode(prompt)
            bos = self._tokenizer.bos_id
            if bos is not None and not (self._special and tokens[:1] == [bos]):
                tokens.insert(0, bos)
        else:
            spoken = self._system if system is None else system
            messages = [Message("system", spoken)] if spoken else []
            tokens = self._format.encode([*messages, Message("user", prompt)]).tokens
        return Request(prompt=tokens, params=params or self.params, id=name)

    def parse(self, line: bytes, number: int, where: str) -> Prompt:
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
        return Prompt(number, prompt, params, system)


def answer(completion: Completion) -> dict[str, Any]:
    """A completion as JSON shows it; one that failed has its `error`."""
    found: dict[str, Any] = {"index": completion.index}
    if completion.error is not None:
        return {**found, "error": str(completion.error)}
    found |= {"text": completion.text, "tokens": list(completion.tokens)}
    found |= {"finish_reason": completion.finish_reason, "usage": completion.usage}
    return {**found, "logprobs": completion.logprobs} if completion.logprobs else found


def run_batch(engine: Engine, prompter: Prompter, source: Path, out: Path, progress: Progress = silent) -> None:
    """Answer every line of `source` into `out`, skipping lines that `out` has whole answers for already.

    A line that cannot be answered has its error in `out`, and is tried again by the next run; when all is done,
    RequestError says how many there are.
    """
    prompts = [prompter.parse(line, number, str(source)) for number, line in _lines(source)]  # all, before any work
    done = _finished(out)
    todo = [p for p in prompts if any((p.line, index) not in done for index in range(p.params.n))]
    requests = (prompter.request(p.text, system=p.system, params=p.params, name=str(p.line)) for p in todo)
    answered, total = len(done), sum(p.params.n for p in prompts)
    failed: list[Completion] = []
    with writing(out), out.open("ab") as file:
        for completion in engine.run(requests):
            line = int(completion.request.id)
            if (line, completion.index) in done:
                continue
            if completion.error is not None:
                failed.append(completion)
            file.write(msgspec.json.encode({"line": line, **answer(completion)}) + b"\n")
            file.flush()
            answered += 1
            progress("answers", answered, total)
        if out.is_file():  # a pipe has nothing to flush
            os.fsync(file.fileno())
    if failed:
        first = failed[0]
        raise RequestError(
            f"{len(failed):,} of {sum(p.params.n for p in todo):,} answers failed, the first of line {first.request.id}: "
            f"{first.error}; {out} has their errors, and running again tries them again"
        )


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with something in them, and their numbers; ConfigError for one that never ends."""
    try:
        with source.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(_LONGEST + 1)
                if len(line) > _LONGEST:
                    raise ConfigError(
                        f"{source}:{number}: a line of more than {_LONGEST >> 20} MiB; expected a JSON object in each line"
                    )
                if not line:
                    return
                if line.strip():
                    yield number, line
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror})") from error


def _finished(out: Path) -> set[tuple[int, int]]:
    """Lines and completions that `out` has; what an interruption left of a line, and failures, are taken out of it."""
    if not out.is_file():  # not there yet, or a pipe
        return set()
    lines = out.read_bytes().splitlines(keepends=True)
    kept, found = [], set()
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        try:
            values = msgspec.json.decode(line, type=dict[str, Any])
            key = int(values["line"]), int(values["index"])
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{out}:{number}: not an answer of an earlier run; name another output file") from error
        if "error" not in values:
            kept.append(line)
            found.add(key)
    if len(kept) < len(lines):
        with atomic_file(out) as temporary:
            temporary.write_bytes(b"".join(kept))
    return found
