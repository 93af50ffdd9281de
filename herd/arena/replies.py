"""Prompts that are asked of all, and the replies, made once and kept in a file: judging and studies start again where they stopped."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from herd.arena.contestants import Contestant, ContestantError
from herd.arena.kinds import kind
from herd.atomic import whole_lines
from herd.errors import FormatError, first_line
from herd.progress import Progress, silent
from herd.text.language import language


class Prompt(msgspec.Struct, frozen=True):
    """One prompt; `answer` is for the rule of that name. Language and kind are found by rules where they are not given."""

    prompt: str
    language: str = ""
    kind: str = ""
    answer: str = ""

    @classmethod
    def of(cls, text: str, language_: str = "", kind_: str = "", answer: str = "") -> "Prompt":
        """With its language and kind."""
        return cls(text, language_ or language(text), kind_ or kind(text), answer)


def read_prompts(path: Path) -> list[Prompt]:
    """A JSONL file of objects with `prompt`, and perhaps `language`, `kind` and `answer`. FormatError naming the line that is none."""
    found: dict[str, Prompt] = {}
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (it is told below)
                if line.strip():
                    one = msgspec.json.decode(line, type=Prompt)
                    found.setdefault(one.prompt, Prompt.of(one.prompt, one.language, one.kind, one.answer))
    except msgspec.MsgspecError as error:
        raise FormatError(f'{path}:{number}: {first_line(error)}; expected lines like {{"prompt": "..."}}') from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({first_line(error)})") from error
    if not found:
        raise FormatError(f"{path}: has no prompts")
    return list(found.values())


class _Line(msgspec.Struct):
    model: str
    version: str
    prompt: str
    reply: str


class Replies:
    """Replies by model, its version and the prompt; new ones are appended to `path` as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[tuple[str, str, str], str] = {}
        self._locks: dict[tuple[str, str, str], asyncio.Lock] = {}
        for number, line in enumerate(whole_lines(path), 1):  # killed within a line: that reply is made again
            try:
                one = msgspec.json.decode(line, type=_Line)
            except msgspec.MsgspecError as error:
                raise FormatError(f"{path}:{number}: not a kept reply ({first_line(error)})") from error
            self._known[one.model, one.version, one.prompt] = one.reply

    async def get(self, contestant: Contestant, prompt: str) -> str:
        """A contestant's reply, made now if it is not there. ContestantError when it cannot be made."""
        key = (contestant.name, contestant.version, prompt)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._known:
                reply = "".join([piece async for piece in contestant.reply(prompt)])
                with self.path.open("ab") as file:
                    file.write(msgspec.json.encode(_Line(*key, reply)) + b"\n")
                self._known[key] = reply
        return self._known[key]

    async def fill(
        self,
        contestants: Sequence[Contestant],
        prompts: Iterable[str],
        *,
        at_once: int = 8,
        progress: Progress = silent,
    ) -> None:
        """Make all that are missing. ContestantError for the first that cannot be made; the others of its time are kept."""
        work = [(one, prompt) for prompt in prompts for one in contestants]
        gate, done, failed = asyncio.Semaphore(at_once), 0, list[ContestantError]()

        async def make(one: Contestant, prompt: str) -> None:
            nonlocal done
            async with gate:
                if not failed:
                    try:
                        await self.get(one, prompt)
                    except ContestantError as error:
                        failed.append(error)
            done += 1
            progress("replies", done, len(work))

        await asyncio.gather(*(make(*pair) for pair in work))
        if failed:
            raise failed[0]
