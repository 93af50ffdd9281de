"""Who answers in an arena: a model that herd opens, an OpenAI-compatible server, or a file of replies; each is a stream of text."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec

from herd.engine.agent import Agent
from herd.engine.engine import Engine
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.errors import ConfigError, FormatError, HerdError, first_line
from herd.text.messages import Message
from herd.weights.checkpoint import Checkpoint
from herd.weights.presets import preset_for

Turn = tuple[str, str]
"""A question and its answer."""


class ContestantError(HerdError):
    """A contestant could not answer. The message names it: for the log of whoever runs the arena, never for a voter."""


class Contestant(Protocol):
    """`version` says what exactly answers; it goes into the arena's ledger."""

    name: str
    version: str

    def reply(self, question: str, before: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """The pieces of an answer, after the turns `before`. ContestantError when there is none."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


@dataclass
class ModelContestant:
    """A model of herd's own engine, with its preset's system message and sampling."""

    name: str
    version: str
    agent: Agent
    system: str
    params: SamplingParams

    async def reply(self, question: str, before: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """The pieces of an answer."""
        messages = [Message("system", self.system)] if self.system else []
        said = [one for asked, answer in before for one in (Message("user", asked), Message("assistant", answer))]
        turns = self.agent.turns([*messages, *said, Message("user", question)], self.params)

        async def no_tools(*_: Any) -> str:
            raise ContestantError(f"{self.name}: called a tool; an arena offers none")

        parts = self.agent.areply(
            turns, lambda: asyncio.to_thread(turns.request), self.agent.engine.agenerate, no_tools
        )
        try:
            async for part in parts:
                if part.text:
                    yield part.text
        except HerdError as error:
            raise ContestantError(f"{self.name}: {error}") from error

    async def close(self) -> None:
        """Stop the engine."""
        await asyncio.to_thread(self.agent.engine.close)


class ServerContestant:
    """A model behind a URL that speaks OpenAI's chat completions. `model` is asked for by that name."""

    def __init__(self, name: str, url: str, model: str, params: dict[str, Any], key: str | None = None) -> None:
        self.name, self.version, self._model, self._params = name, f"{model} at {url}", model, params
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(
            headers=headers, timeout=httpx.Timeout(60, connect=10), limits=httpx.Limits(max_connections=256)
        )
        self._url = f"{url.rstrip('/')}/chat/completions"

    async def reply(self, question: str, before: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """The pieces of an answer."""
        told = [(role, text) for turn in before for role, text in zip(("user", "assistant"), turn, strict=True)]
        messages = [{"role": role, "content": text} for role, text in (*told, ("user", question))]
        body = {"model": self._model, "messages": messages, "stream": True}
        try:
            async with self._client.stream("POST", self._url, json=body | self._params) as response:
                if response.status_code != 200:
                    said = (await response.aread())[:300].decode(errors="replace")
                    raise ContestantError(f"{self.name}: {self._url} answered {response.status_code}: {said}")
                async for line in response.aiter_lines():
                    if line.startswith("data:") and (text := self._text(line[5:].strip())):
                        yield text
        except httpx.HTTPError as error:
            raise ContestantError(f"{self.name}: {self._url}: {first_line(error)}") from error

    def _text(self, data: str) -> str:
        if data == "[DONE]":
            return ""
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise ContestantError(f"{self.name}: {chunk['error']}")
            text = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else ""
            return text if isinstance(text, str) else ""
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ContestantError(f"{self.name}: {data[:100]!r} is no chunk of a chat completion") from error

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


@dataclass
class FileContestant:
    """Replies that were made before: `replies` by prompt."""

    name: str
    version: str
    replies: dict[str, str] = field(repr=False)

    async def reply(self, question: str, before: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """The whole answer in one piece."""
        if before or question not in self.replies:
            raise ContestantError(f"{self.name}: has no reply to {question[:80]!r}")
        yield self.replies[question]

    async def close(self) -> None:
        """Nothing is held."""


class _Reply(msgspec.Struct):
    prompt: str
    reply: str


def read_replies(path: Path) -> dict[str, str]:
    """A JSONL file of objects with `prompt` and `reply`. FormatError naming the line that is none, or a prompt that comes twice."""
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                one = msgspec.json.decode(line, type=_Reply)
                if found.setdefault(one.prompt, one.reply) != one.reply:
                    raise FormatError(f"{path}:{number}: a second, different reply to {one.prompt[:60]!r}")
    except msgspec.MsgspecError as error:
        raise FormatError(
            f'{path}:{number}: {first_line(error)}; expected lines like {{"prompt": "...", "reply": "..."}}'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({first_line(error)})") from error
    if not found:
        raise FormatError(f"{path}: has no replies")
    return found


def open_contestants(
    places: list[str],
    find: Callable[[str], Checkpoint],
    *,
    max_tokens: int = 1024,
    temperature: float | None = None,
    key: str | None = None,
    threads: int | None = None,
    cache_tokens: int | None = None,
) -> list[Contestant]:
    """Contestants from `[NAME=]PLACE`: a URL (`http://host/v1`, or `http://host/v1#model` where it serves several), a `.jsonl`
    file of replies, or a model that `find` opens. Without `temperature` each has its own. ConfigError for names that are used twice.
    """
    said: dict[str, float] = {"max_tokens": max_tokens} | ({} if temperature is None else {"temperature": temperature})
    found: list[Contestant] = []
    for given in places:
        named = re.match(r"([^=/#?]+)=(.+)", given)
        name, place = (named[1], named[2]) if named else ("", given)
        if place.startswith(("http://", "https://")):
            url, _, model = place.partition("#")
            model = model or _only_model(url, key)
            one: Contestant = ServerContestant(name or model, url, model, said, key)
        elif place.endswith(".jsonl"):
            one = FileContestant(name or Path(place).stem, f"replies of {Path(place).name}", read_replies(Path(place)))
        else:
            one = _open_model(name, place, find(place), said, threads, cache_tokens)
        found.append(one)
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice}: two contestants have this name; give each its own: NAME={twice}")
    return found


def _open_model(
    name: str, place: str, checkpoint: Checkpoint, said: dict[str, float], threads: int | None, cache_tokens: int | None
) -> ModelContestant:
    preset = preset_for(checkpoint)
    chat = checkpoint.chat_format()
    engine: Engine = open_engine(checkpoint, threads=threads, cache_tokens=cache_tokens)
    params = SamplingParams(**preset.params() | said)  # type: ignore[arg-type]
    return ModelContestant(name or Path(place).stem, Path(place).name, Agent(engine, chat), preset.system, params)


def _only_model(url: str, key: str | None) -> str:
    """The model that a server lists; ConfigError where it lists several or does not answer."""
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=10
        )
        answer.raise_for_status()
        names = [str(one["id"]) for one in answer.json()["data"]]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{url}: no OpenAI-compatible server answers there ({first_line(error)}); name its model: {url}#MODEL"
        ) from error
    if len(names) != 1:
        raise ConfigError(f"{url}: serves {', '.join(names) or 'no models'}; choose one: {url}#MODEL")
    return names[0]


def common_prompts(contestants: list[Contestant]) -> list[str] | None:
    """The prompts that every file of replies answers; None where there is no such file and anything may be asked."""
    files = [one for one in contestants if isinstance(one, FileContestant)]
    if not files:
        return None
    found = [prompt for prompt in files[0].replies if all(prompt in one.replies for one in files[1:])]
    if not found:
        raise ConfigError(f"{', '.join(one.name for one in files)}: these files answer no prompt in common")
    return found
