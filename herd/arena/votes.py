"""Where votes are kept: SQLite by default, Postgres by URL; a vote that was acknowledged is on the disk.

Every model, version, withdrawal and exclusion is a line of a hash-chained log beside the votes, so that nothing leaves unseen.
"""

import contextlib
import csv
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from herd.arena.rank import Floats, Table
from herd.chain import link
from herd.errors import ConfigError, FormatError, MissingDependencyError

Winner = Literal["left", "right", "both good", "both bad"]
WINNERS: tuple[Winner, ...] = ("left", "both good", "right", "both bad")
_OUTCOME = {"left": 0, "both good": 1, "right": 2, "both bad": 1}
STYLE = ("characters", "headers", "bold", "lists")
"""What style control knows of a reply, as the difference of left and right over their sum."""

_SCHEMA = """
create table if not exists models (id integer primary key, name text not null unique, private integer not null default 0);
create table if not exists votes (
    id {serial}, time double precision not null, voter text not null, first integer not null, second integer not null,
    winner integer not null, language text not null default '', kind text not null default '', seconds double precision not null default 0,
    characters double precision not null default 0, headers double precision not null default 0, bold double precision not null default 0,
    lists double precision not null default 0, excluded text not null default '', prompt text not null default '');
create index if not exists votes_by_pair on votes (excluded, first, second, winner);
create index if not exists votes_by_style on votes (excluded, winner, first, second, characters, headers, bold, lists);
create index if not exists votes_by_language on votes (excluded, language, first, second, winner);
create index if not exists votes_by_kind on votes (excluded, kind, first, second, winner);
create table if not exists settings (name text primary key, value text not null);
create table if not exists ledger (id {serial}, time double precision not null, entry text not null, hash text not null);
"""


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One vote. `style` are the values of STYLE; `seconds` is how long the page was open before it."""

    voter: str
    first: str
    second: str
    winner: Winner
    time: float = 0.0
    language: str = ""
    kind: str = ""
    seconds: float = 0.0
    style: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    excluded: str = ""
    prompt: str = ""


class Votes:
    """An open store of votes; `place` is a file, or a postgresql:// URL. Use as a context manager, or call `close`."""

    def __init__(self, place: str) -> None:
        self.postgres = place.startswith(("postgresql://", "postgres://"))
        self._models: dict[str, int] = {}
        if self.postgres:
            self._connection: Any = _connect(place)
        else:
            try:
                self._connection = sqlite3.connect(place, isolation_level=None, check_same_thread=False, timeout=30)
                self._connection.execute("pragma journal_mode = wal")
                self._connection.execute("pragma synchronous = full")
            except sqlite3.Error as error:
                raise FormatError(f"{place}: not a file of votes ({error})") from error
        serial = "bigserial primary key" if self.postgres else "integer primary key"
        for statement in _SCHEMA.format(serial=serial).split(";"):
            if statement.strip():
                self._run(statement)

    def __enter__(self) -> "Votes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self._connection.close()

    def _run(self, statement: str, values: Sequence[Any] = ()) -> Any:
        try:
            return self._connection.execute(statement.replace("?", "%s") if self.postgres else statement, values)
        except sqlite3.Error as error:
            raise FormatError(f"votes: {error}") from error

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Several statements that happen all or not at all."""
        if self.postgres:
            with self._connection.transaction():
                yield
            return
        self._run("begin immediate")
        try:
            yield
        except BaseException:
            self._run("rollback")
            raise
        self._run("commit")

    def model(self, name: str, *, private: bool = False) -> int:
        """The number of a model; one that is new is entered, and the ledger says so."""
        if not name.strip():
            raise ConfigError("a model has no name")
        if name not in self._models:
            found = self._run("select id from models where name = ?", (name,)).fetchone()
            if found is None:
                number = self._run("select coalesce(max(id), 0) + 1 from models").fetchone()[0]
                self._run("insert into models (id, name, private) values (?, ?, ?)", (number, name, int(private)))
                self._enter({"event": "model", "name": name, "private": private})
                self._models[name] = number
            else:
                self._models[name] = found[0]
        return self._models[name]

    def enter(self, models: Iterable[tuple[str, str]]) -> None:
        """Enter names and versions; the ledger says which are new."""
        said = {e["name"]: e["version"] for e in self.ledger() if e["event"] == "version"}
        with self._together():
            for name, version in models:
                self.model(name)
                if said.get(name) != version:
                    self._enter({"event": "version", "name": name, "version": version})

    def secret(self) -> str:
        """What signs the cookies of this arena's voters, made once."""
        made = secrets.token_hex(32)
        self._run("insert into settings (name, value) values ('secret', ?) on conflict (name) do nothing", (made,))
        return str(self._run("select value from settings where name = 'secret'").fetchone()[0])

    def add(self, votes: Iterable[Vote]) -> int:
        """Keep votes, all or none; returns how many. They are on the disk when this returns."""
        count = 0
        with self._together():
            for vote in votes:
                if vote.winner not in _OUTCOME:
                    raise ConfigError(f"winner {vote.winner!r}: expected one of {', '.join(WINNERS)}")
                if vote.first == vote.second:
                    raise ConfigError(f"{vote.first} is compared with itself")
                row = (
                    vote.time or time.time(), vote.voter, self.model(vote.first), self.model(vote.second),
                    WINNERS.index(vote.winner), vote.language, vote.kind, vote.seconds, *vote.style, vote.excluded, vote.prompt,
                )  # fmt: skip
                self._run(
                    "insert into votes (time, voter, first, second, winner, language, kind, seconds, characters, headers, bold,"
                    " lists, excluded, prompt) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row,
                )  # fmt: skip
                count += 1
        return count

    def exclude(self, voters: Iterable[str], reason: str) -> int:
        """Leave the votes of some voters out of rankings; they stay in the store, and the ledger says why."""
        if not reason:
            raise ConfigError("votes are excluded for a reason; give one")
        count = 0
        with self._together():
            for voter in voters:
                done = self._run("update votes set excluded = ? where voter = ? and excluded = ''", (reason, voter))
                count += done.rowcount
                self._enter({"event": "excluded", "voter": _digest(voter), "votes": done.rowcount, "reason": reason})
        return count

    def withdraw(self, name: str, reason: str) -> None:
        """A model leaves the arena: its votes stay and count, the ledger says that it left."""
        if self._run("select id from models where name = ?", (name,)).fetchone() is None:
            raise ConfigError(f"{name}: no such model in the arena")
        self._enter({"event": "withdrawn", "name": name, "reason": reason})

    def names(self) -> dict[int, str]:
        """Models by number."""
        return {int(number): name for number, name in self._run("select id, name from models order by id").fetchall()}

    def table(self, *, language: str | None = None, kind: str | None = None) -> Table:
        """Votes counted by pair and outcome, of one language or kind or all."""
        where, values = _where(language, kind)
        rows = self._run(
            f"select first, second, winner, count(*) from votes where {where} group by first, second, winner", values
        ).fetchall()
        names = self.names()
        found = np.array(rows, np.int64).reshape(-1, 4)
        used = np.unique(found[:, :2])
        place = np.zeros(max(names, default=0) + 1, np.int64)
        place[used] = np.arange(len(used))
        outcome = np.array([_OUTCOME[w] for w in WINNERS])[found[:, 2]]
        return Table.of(
            [names[int(i)] for i in used], place[found[:, 0]], place[found[:, 1]], outcome, found[:, 3].astype(np.float64)
        )  # fmt: skip

    def rows(
        self, *, language: str | None = None, kind: str | None = None, style: bool = False
    ) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Every vote as arrays: first, second, outcome, voter, and the columns of STYLE; with the names of the models."""
        where, values = _where(language, kind)
        columns = ("first", "second", "winner", *(STYLE if style else ("voter",)))
        order = "" if style else " order by id"  # by the index where the order tells nothing
        rows = self._run(f"select {', '.join(columns)} from votes where {where}{order}", values)
        names = self.names()
        if style:
            found = np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, len(columns))
            first, second, winner = (found[:, i].astype(np.int64) for i in range(3))
            arrays: dict[str, NDArray[Any]] = {name: found[:, 3 + i] for i, name in enumerate(STYLE)}
        else:
            parts = list(zip(*rows, strict=True)) or [()] * len(columns)
            first, second, winner = (np.array(part, np.int64) for part in parts[:3])
            arrays = {"voter": np.array(parts[3], np.str_)}
        used = np.unique(np.concatenate((first, second)))
        place = np.zeros(max(names, default=0) + 1, np.int64)
        place[used] = np.arange(len(used))
        outcome = np.array([_OUTCOME[w] for w in WINNERS])[winner]
        arrays |= {"first": place[first], "second": place[second], "outcome": outcome}
        return [names[int(i)] for i in used], arrays

    def seen(self, voter: str) -> set[tuple[str, str, str]]:
        """What a voter has voted on: names of both models, and the prompt."""
        names = self.names()
        rows = self._run("select first, second, prompt from votes where voter = ?", (voter,)).fetchall()
        return {(names[first], names[second], prompt) for first, second, prompt in rows}

    def kinds(self, column: str) -> dict[str, int]:
        """Votes by `language` or by `kind`."""
        if column not in ("language", "kind"):
            raise ConfigError(f"votes by {column}: expected language or kind")
        rows = self._run(f"select {column}, count(*) from votes where excluded = '' group by {column}").fetchall()
        return {name: int(count) for name, count in rows}

    # The ledger.

    def _enter(self, entry: dict[str, Any]) -> None:
        last = self._run("select hash from ledger order by id desc limit 1").fetchone()
        text = json.dumps(entry, sort_keys=True)
        chained = link(last[0] if last else "", text)
        self._run("insert into ledger (time, entry, hash) values (?, ?, ?)", (time.time(), text, chained))

    def ledger(self) -> list[dict[str, Any]]:
        """All entries, oldest first; FormatError naming the first that was changed."""
        before, entries = "", []
        for number, moment, text, chained in self._run(
            "select id, time, entry, hash from ledger order by id"
        ).fetchall():
            if link(before, text) != chained:
                raise FormatError(f"ledger: entry {number} was changed, or one before it was removed")
            before = chained
            entries.append({"time": moment, **json.loads(text)})
        return entries


def outcome_of(winner: Winner) -> int:
    """0 where the left one won, 1 for a tie, 2 where the right one did."""
    return _OUTCOME[winner]


def _where(language: str | None, kind: str | None) -> tuple[str, list[str]]:
    parts, values = ["excluded = ''"], []
    for column, value in (("language", language), ("kind", kind)):
        if value is not None:
            parts.append(f"{column} = ?")
            values.append(value)
    return " and ".join(parts), values


def _digest(voter: str) -> str:
    return hashlib.sha256(voter.encode()).hexdigest()[:16]


def _connect(url: str) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingDependencyError("votes in Postgres need psycopg; pip install 'llama-herd[arena]'") from error
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.Error as error:
        raise ConfigError(
            f"{url.split('@')[-1]}: no connection to Postgres ({str(error).strip().splitlines()[0]})"
        ) from error


def read_csv(path: Path) -> Iterator[Vote]:
    """Votes of a CSV file: columns left, right, winner (left, right, tie, both good, both bad), and if there are any voter (or
    worker), prompt, language, kind. ConfigError naming the line that is no vote.
    """
    spelled: dict[str, Winner] = {
        "left": "left", "model_a": "left", "a": "left", "right": "right", "model_b": "right", "b": "right", "tie": "both good",
        "both good": "both good", "both bad": "both bad", "tie (bothbad)": "both bad",
    }  # fmt: skip
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            sides = next((p for p in (("left", "right"), ("model_a", "model_b")) if set(p) <= columns), None)
            if sides is None or "winner" not in columns:
                raise ConfigError(
                    f"{path}: columns {', '.join(sorted(columns))}; expected left, right (or model_a, model_b) and winner"
                )
            for number, row in enumerate(reader, 2):
                winner = spelled.get((row["winner"] or "").strip().lower())
                if winner is None or not row[sides[0]] or not row[sides[1]]:
                    raise ConfigError(
                        f"{path}:{number}: {row['winner']!r} is no winner; expected {', '.join(dict.fromkeys(spelled))}"
                    )
                yield Vote(
                    voter=row.get("voter") or row.get("worker") or f"line {number}", first=row[sides[0]], second=row[sides[1]],
                    winner=winner, language=row.get("language") or "", kind=row.get("kind") or "", prompt=row.get("prompt") or "",
                )  # fmt: skip
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error})") from error


def style_of(reply: str) -> tuple[float, float, float, float]:
    """Characters, headers, bold parts and list items of a reply in Markdown."""
    lines = reply.splitlines()
    headers = sum(line.lstrip().startswith("#") for line in lines)
    items = sum(line.lstrip()[:2] in ("- ", "* ", "+ ") or line.lstrip()[:3].rstrip(". )").isdigit() for line in lines)
    return float(len(reply)), float(headers), float(reply.count("**") // 2), float(items)


def style_difference(first: str, second: str) -> tuple[float, float, float, float]:
    """Of two replies: (first - second) / (first + second) for each of STYLE, 0 where neither has any (LMSYS, 2024)."""
    pairs = zip(style_of(first), style_of(second), strict=True)
    a, b, c, d = ((x - y) / (x + y) if x + y else 0.0 for x, y in pairs)
    return a, b, c, d


def style_features(arrays: dict[str, NDArray[Any]]) -> dict[str, Floats]:
    """The columns of STYLE that differ at all."""
    return {name: arrays[name] for name in STYLE if len(arrays[name]) and arrays[name].std() > 0}
