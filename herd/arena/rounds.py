"""Blind rounds: a question, two anonymous answers side by side, a vote. No HTTP here.

What must not tell who answers: the order is drawn, and of both answers no more is shown than the slower one has, until it ends.
So a stored reply, a quick and a slow model look alike.
"""

import asyncio
import functools
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from herd.arena.contestants import Contestant, ContestantError, Turn, common_prompts
from herd.arena.kinds import kind, reveals
from herd.arena.pairs import choose
from herd.arena.rank import Table
from herd.arena.standings import standings
from herd.arena.votes import WINNERS, Vote, Votes, Winner, outcome_of, style_difference
from herd.errors import ConfigError, HerdError
from herd.text.language import language

T = TypeVar("T")
_TICK = 0.05  # seconds between two pieces that a reader gets
_KEPT, _LONGEST = 3600.0, 200_000  # seconds that a round can be voted on; characters of an answer
_TURNS = 8  # questions of a round


class RoundError(HerdError):
    """What a voter asked cannot be done. `code` is for the page, `status` HTTP's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class RoundSettings:
    """Limits: characters of a question, rounds at a time, questions a minute (for each voter, and ten times that for each
    address), and the seconds that a vote takes at least: one that is quicker is kept and not counted.
    """

    longest: int = 8000
    concurrency: int = 32
    per_minute: int = 12
    least_seconds: float = 1.5

    def check(self) -> None:
        """ConfigError naming the first limit that is none."""
        for name in ("longest", "concurrency", "per_minute"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.least_seconds <= 3600:
            raise ConfigError(f"least_seconds is {self.least_seconds}; expected 0 to 3600")


@dataclass
class Side:
    """One answer as far as it has come, and how much of it was shown; `before` are the turns that came before it."""

    contestant: Contestant
    text: str = ""
    shown: int = 0
    ended: bool = False
    before: list[Turn] = field(default_factory=list)

    def go_on(self, question: str) -> None:
        """The answer to `question` is whole; another one comes."""
        self.before.append((question, self.text))
        self.text, self.shown, self.ended = "", 0, False

    def seen(self) -> str:
        """All that was shown of it."""
        return "\n\n".join([*(answer for _, answer in self.before), self.text[: self.shown]])


@dataclass
class Round:
    """A question and its two answers, the left one first; where the person goes on, the last question. A vote is on all turns."""

    id: str
    voter: str
    question: str
    sides: tuple[Side, Side]
    started: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)  # the last question
    running: bool = False
    failed: bool = False
    vote: Vote | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ended(self) -> bool:
        """Whether both answers are whole and shown."""
        return all(side.ended and side.shown == len(side.text) for side in self.sides)

    def advance(self) -> list[str]:
        """What can be shown now of left and right."""
        news = []
        for side, other in (self.sides, self.sides[::-1]):
            end = len(side.text) if other.ended else min(len(side.text), len(other.text))
            news.append(side.text[side.shown : end])
            side.shown = max(side.shown, end)
        return news

    def asked_for(self) -> str:
        """All questions, the first one first."""
        return "\n\n".join([*(question for question, _ in self.sides[0].before), self.question])

    def go_on(self, question: str) -> None:
        """Another question to the same two."""
        for side in self.sides:
            side.go_on(self.question)
        self.question, self.asked = question, time.monotonic()


class Meter:
    """How often each key came within the last minute."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def take(self, key: str, limit: int) -> bool:
        """Count one more; False, and nothing counted, where the limit is reached."""
        now = time.monotonic()
        if len(self._times) > 100_000:
            self._times = {k: t for k, t in self._times.items() if t[-1] > now - 60}
        recent = [t for t in self._times.get(key, ()) if t > now - 60]
        if len(recent) >= limit:
            return False
        self._times[key] = [*recent, now]
        return True


class Arena:
    """Contestants, the store of votes, and the rounds that are open. `log` is told what failed, with names."""

    def __init__(
        self, contestants: Sequence[Contestant], votes: Votes, settings: RoundSettings, log: Callable[[str], None]
    ) -> None:
        self.settings, self.contestants, self._log = settings, list(contestants), log
        self._votes, self._generator = votes, np.random.default_rng()
        self._store = ThreadPoolExecutor(1, "herd-votes")  # one connection, one thread
        self._rounds: dict[str, Round] = {}
        self._running = 0
        self._meter = Meter()
        self._names = [one.name for one in contestants]
        self.prompts = common_prompts(self.contestants)
        self._rankings: dict[tuple[str | None, str | None], tuple[Any, dict[str, Any]]] = {}
        self._count = 0  # votes taken since the start: rankings older than that are made anew
        votes.enter((one.name, one.version) for one in contestants)
        self.secret = votes.secret()
        self._table = self._counted(votes.table())

    def _counted(self, table: Table) -> Table:
        """The votes between the contestants of now, from all that were given."""
        counts = np.zeros((len(self._names), len(self._names), 3))
        known = [(i, self._names.index(name)) for i, name in enumerate(table.names) if name in self._names]
        for i, a in known:
            for j, b in known:
                counts[a, b] = table.counts[i, j]
        return Table(tuple(self._names), counts)

    async def _stored(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._store, work)

    def begin(self, voter: str, address: str, question: str | None, on: str | None = None) -> Round:
        """A new round for a question, or for a stored prompt where there are such; or another turn of the round `on`.

        RoundError for one that cannot be.
        """
        round_ = None if on is None else self._open(voter, on)
        if round_ is None and self.prompts is not None:
            question = self.prompts[int(self._generator.integers(len(self.prompts)))]
        elif question is None or not question.strip():
            raise RoundError(400, "empty", "ask something")
        elif len(question) > self.settings.longest:
            raise RoundError(
                413, "too_long", f"{len(question):,} characters; expected at most {self.settings.longest:,}"
            )
        if self._running >= self.settings.concurrency:
            raise RoundError(503, "busy", "too many rounds at a time; try again in a moment")
        per_minute = self.settings.per_minute
        if not self._meter.take(voter, per_minute) or not self._meter.take(f"at {address}", 10 * per_minute):
            raise RoundError(429, "too_many", f"at most {per_minute} questions a minute; try again in a moment")
        if round_ is not None:
            round_.go_on(question)
            return round_
        first, second = choose(self._table, self._generator)
        sides = (Side(self.contestants[first]), Side(self.contestants[second]))
        now = time.monotonic()
        for old in [one for one in self._rounds.values() if one.asked < now - _KEPT]:
            del self._rounds[old.id]
        made = Round(secrets.token_urlsafe(16), voter, question, sides)
        self._rounds[made.id] = made
        return made

    def _open(self, voter: str, id_: str) -> Round:
        """A round that can go on: its answers are whole, and no vote was given."""
        round_ = self._rounds.get(id_)
        if round_ is None or round_.voter != voter or round_.vote is not None or self.prompts is not None:
            raise RoundError(404, "gone", "this round is over; ask again")
        if round_.failed:
            raise RoundError(409, "failed", "a model could not answer; nothing is counted")
        if round_.running or not round_.ended or round_.lock.locked():
            raise RoundError(409, "unfinished", "wait until both answers have ended")
        if len(round_.sides[0].before) + 1 >= _TURNS:
            raise RoundError(409, "turns", f"a round has at most {_TURNS} questions; vote")
        return round_

    async def answers(self, round_: Round) -> AsyncGenerator[list[str], None]:
        """What left and right have said since the last time, until both have ended or one has failed. Leaving early stops them."""
        self._running += 1
        round_.running = True
        tasks = [asyncio.create_task(self._answer(round_, side)) for side in round_.sides]
        try:
            while not round_.failed:
                news = round_.advance()
                if any(news):
                    yield news
                if round_.ended:
                    return
                await asyncio.sleep(_TICK)
        finally:
            self._running -= 1
            round_.running = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, round_: Round, side: Side) -> None:
        pieces = side.contestant.reply(round_.question, side.before)
        try:
            async for piece in pieces:
                side.text += piece
                if len(side.text) > _LONGEST:
                    break
            side.ended = True
        except ContestantError as error:
            round_.failed = True
            self._log(str(error))
        except Exception as error:  # a fault of ours: the round ends, the others go on
            round_.failed = True
            self._log(f"{side.contestant.name}: {error!r}")
        finally:
            await pieces.aclose()

    async def vote(self, voter: str, id_: str, winner: str) -> dict[str, Any]:
        """Keep a vote; it is on the disk when this returns. Who votes again is told what was counted first."""
        round_ = self._rounds.get(id_)
        if round_ is None or round_.voter != voter:
            raise RoundError(404, "gone", "this round is over; ask again")
        if winner not in WINNERS:
            raise RoundError(400, "winner", f"expected one of {', '.join(WINNERS)}")
        if round_.failed:
            raise RoundError(409, "failed", "a model could not answer; nothing is counted")
        if not all(side.shown or side.ended or side.before for side in round_.sides):
            raise RoundError(409, "early", "wait until both answers have begun")
        async with round_.lock:
            if round_.vote is None:
                vote = self._judged(round_, winner)
                await self._stored(lambda: self._votes.add([vote]))
                round_.vote = vote
                self._count += 1
                if not vote.excluded:
                    first, second = self._names.index(vote.first), self._names.index(vote.second)
                    self._table.counts[first, second, outcome_of(vote.winner)] += 1
        vote = round_.vote
        return {"left": vote.first, "right": vote.second, "winner": vote.winner, "excluded": vote.excluded}

    def _judged(self, round_: Round, winner: Winner) -> Vote:
        left, right = (side.seen() for side in round_.sides)
        seconds, asked = time.monotonic() - round_.started, round_.asked_for()
        excluded = ""
        if reveals(left, self._names) or reveals(right, self._names):
            excluded = "reveals"
        elif seconds < self.settings.least_seconds:
            excluded = "quick"
        return Vote(
            voter=round_.voter, first=round_.sides[0].contestant.name, second=round_.sides[1].contestant.name, winner=winner,
            time=time.time(), language=language(asked), kind=kind(asked), seconds=seconds,
            style=style_difference(left, right), excluded=excluded, prompt=asked,
        )  # fmt: skip

    async def ranking(self, language: str | None, kind: str | None) -> dict[str, Any]:
        """The table, of one language or kind or all; made anew for new votes, and every half minute for what others changed."""
        made, state = self._rankings.get((language, kind)), (self._count, int(time.monotonic() / 30))
        if made is None or made[0] != state:
            made = (state, await self._stored(functools.partial(self._rank, language, kind)))
            self._rankings = {**dict(list(self._rankings.items())[-200:]), (language, kind): made}
        return made[1]

    def _rank(self, language: str | None, kind: str | None) -> dict[str, Any]:
        table = self._votes.table(language=language, kind=kind)
        rows, helped = standings(table)
        return {
            "votes": int(table.votes), "rows": rows, "helped": helped,
            "languages": self._votes.kinds("language"), "kinds": self._votes.kinds("kind"),
        }  # fmt: skip

    async def ledger(self) -> list[dict[str, Any]]:
        """What the arena has done, from the first model on."""
        return await self._stored(self._votes.ledger)

    async def close(self) -> None:
        """Free contestants and the store; votes that are being written are written first."""
        for one in self.contestants:
            await one.close()
        await asyncio.to_thread(self._store.shutdown)
