"""Human pairwise evaluation in the form of the Llama 3 paper (arXiv 2407.21783, section 5.3): prompts drawn by language and kind, a
seven-point scale, several raters. A study is a run's folder: items.json, replies.jsonl, ratings.db.
"""

import hashlib
import hmac
import itertools
import math
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from herd import __version__
from herd.arena.contestants import Contestant
from herd.arena.kinds import reveals
from herd.arena.replies import Replies, read_prompts
from herd.atomic import atomic_file
from herd.config import read
from herd.errors import ConfigError, FormatError
from herd.progress import Progress, silent
from herd.report import Report
from herd.runs import Run
from herd.statistics import Interval, bootstrap, krippendorff_alpha, mean

_SCALE = 3  # -3 to 3: much worse ... about the same ... much better
_SCHEMA = """
create table if not exists settings (name text primary key, value text not null);
create table if not exists ratings (item integer not null, rater text not null, value integer not null, seconds real not null,
    time real not null, primary key (item, rater));
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study asks. `per_cell` prompts are drawn of each language and kind; each item is rated by `ratings` of the raters."""

    models: tuple[str, ...]
    prompts: str
    raters: tuple[str, ...]
    ratings: int | None = None
    per_cell: int = 10
    max_tokens: int = 1024
    seed: int = 0

    def check(self) -> None:
        """ConfigError naming what cannot be."""
        if len(self.models) < 2:
            raise ConfigError(f"models has {len(self.models)}; expected two or more")
        if not self.raters or len(set(self.raters)) < len(self.raters) or not all(map(str.strip, self.raters)):
            raise ConfigError("raters: expected one name or more, each once")
        if self.ratings is not None and not 1 <= self.ratings <= len(self.raters):
            raise ConfigError(f"ratings is {self.ratings}; expected 1 to {len(self.raters)}, the number of raters")
        if self.per_cell < 1 or self.max_tokens < 1:
            raise ConfigError("per_cell and max_tokens: expected 1 or more")


class Item(msgspec.Struct, frozen=True):
    """Two models' replies to one prompt."""

    prompt: str
    language: str
    kind: str
    first: str
    second: str
    replies: tuple[str, str]


@dataclass(frozen=True)
class Rating:
    """`value` is positive where the item's first reply is better."""

    item: int
    rater: str
    value: int
    seconds: float


class Study:
    """An open study: its items, and who rates which."""

    def __init__(self, folder: Path, plan: Plan, items: Sequence[Item]) -> None:
        self.folder, self.plan, self.items = folder, plan, list(items)
        self._lock = threading.Lock()
        try:
            self._store = sqlite3.connect(
                folder / "ratings.db", isolation_level=None, check_same_thread=False, timeout=30
            )
            self._store.executescript("pragma journal_mode = wal; pragma synchronous = full;" + _SCHEMA)
            made = ("secret", secrets.token_hex(32))
            self._store.execute("insert into settings values (?, ?) on conflict (name) do nothing", made)
            row = self._store.execute("select value from settings where name = 'secret'").fetchone()
        except sqlite3.Error as error:
            raise FormatError(f"{folder / 'ratings.db'}: not a study's ratings ({error})") from error
        self._secret = str(row[0]).encode()
        self._shown: dict[tuple[str, int], float] = {}

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def token(self, rater: str) -> str:
        """What a rater's link carries."""
        return hmac.new(self._secret, rater.encode(), hashlib.sha256).hexdigest()[:24]

    def rater(self, token: str) -> str | None:
        """Whose link it is."""
        return next((name for name in self.plan.raters if hmac.compare_digest(self.token(name).encode(), token.encode())), None)  # fmt: skip

    def _drawn(self, rater: str, item: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.plan.seed} {item} {rater}".encode()).digest()[:8])

    def assigned(self, rater: str) -> list[int]:
        """A rater's items, in the order in which they come."""
        all_, each = self.plan.raters, self.plan.ratings or len(self.plan.raters)
        mine = [k for k in range(len(self.items)) if rater in [all_[(k + j) % len(all_)] for j in range(each)]]
        return sorted(mine, key=lambda k: self._drawn(rater, k))

    def swapped(self, rater: str, item: int) -> bool:
        """Whether this rater sees the second reply on the left."""
        return bool(self._drawn(rater, item) & 1)

    def next(self, rater: str) -> dict[str, Any]:
        """The next item for a rater without any name, or how many there were."""
        mine = self.assigned(rater)
        rated = {rating.item for rating in self.ratings() if rating.rater == rater}
        left = [k for k in mine if k not in rated]
        state: dict[str, Any] = {"done": len(mine) - len(left), "total": len(mine)}
        if left:
            item = self.items[left[0]]
            shown = item.replies[::-1] if self.swapped(rater, left[0]) else item.replies
            self._shown.setdefault((rater, left[0]), time.monotonic())
            state |= {"item": left[0], "question": item.prompt, "left": shown[0], "right": shown[1]}
        return state

    def rate(self, rater: str, item: int, value: int) -> None:
        """Keep a rating, positive where left is better; it is on the disk when this returns. The first one counts."""
        if item not in self.assigned(rater) or not -_SCALE <= value <= _SCALE:
            raise ConfigError(f"item {item}, value {value}: expected an item of this rater, and -{_SCALE} to {_SCALE}")
        kept = -value if self.swapped(rater, item) else value
        seconds = time.monotonic() - self._shown.get((rater, item), time.monotonic())
        with self._lock:
            self._store.execute(
                "insert into ratings values (?, ?, ?, ?, ?) on conflict (item, rater) do nothing", (item, rater, kept, seconds, time.time())
            )  # fmt: skip

    def ratings(self) -> list[Rating]:
        """All that were given."""
        with self._lock:
            rows = self._store.execute("select item, rater, value, seconds from ratings order by time").fetchall()
        return [Rating(*row) for row in rows]


def read_plan(path: Path) -> Plan:
    """A plan; ConfigError naming what is wrong."""
    plan = read(Plan, path, {})
    plan.check()
    return plan


def _opened(path: Path, folder: Path) -> Run:
    """The study's run: a new one, or the one that is there, of the same plan."""
    text = path.read_text("utf-8")
    other = f"{path}: is not the plan that {folder} was made from; give another --out"
    return Run.of(folder, "study", text, other=other, version=__version__)


async def prepare(
    path: Path, folder: Path, open_: Callable[[Plan], list[Contestant]], progress: Progress = silent
) -> Study:
    """The study of a plan: prompts are drawn and replies made the first time, and found there afterwards."""
    plan = read_plan(path)
    prompts = None if (folder / "items.json").exists() else read_prompts(path.parent / plan.prompts)
    _opened(path, folder)
    if prompts is None:
        return load(path, folder)
    generator, cells = random.Random(plan.seed), dict[tuple[str, str], list[Any]]()
    for one in prompts:
        cells.setdefault((one.language, one.kind), []).append(one)
    drawn = [p for _, cell in sorted(cells.items()) for p in generator.sample(cell, min(plan.per_cell, len(cell)))]
    contestants, replies = open_(plan), Replies(folder / "replies.jsonl")
    try:
        await replies.fill(contestants, [one.prompt for one in drawn], progress=progress)
        items = [
            Item(p.prompt, p.language, p.kind, a.name, b.name, (await replies.get(a, p.prompt), await replies.get(b, p.prompt)))
            for p in drawn for a, b in itertools.combinations(contestants, 2)
        ]  # fmt: skip
    finally:
        for contestant in contestants:
            await contestant.close()
    generator.shuffle(items)
    with atomic_file(folder / "items.json") as temporary:
        temporary.write_bytes(msgspec.json.encode(items))
    return Study(folder, plan, items)


def load(path: Path, folder: Path) -> Study:
    """A study that was prepared."""
    plan = read_plan(path)
    if not (folder / "items.json").exists():
        raise ConfigError(f"{folder}: no study was prepared there; run herd arena study {path}")
    _opened(path, folder)
    try:
        items = msgspec.json.decode((folder / "items.json").read_bytes(), type=list[Item])
    except msgspec.MsgspecError as error:
        raise FormatError(f"{folder / 'items.json'}: not a study's items ({error})") from error
    return Study(folder, plan, items)


def agreement(ratings: Sequence[Rating]) -> Interval | None:
    """Krippendorff's alpha (ordinal) with an interval over resampled items; None where it cannot be told."""
    raters, items = sorted({r.rater for r in ratings}), sorted({r.item for r in ratings})
    table = np.full((len(raters), len(items)), np.nan)
    for r in ratings:
        table[raters.index(r.rater), items.index(r.item)] = r.value
    if not len(items) or math.isnan(krippendorff_alpha(table)):
        return None

    def of(numbers: Any) -> float:
        found = krippendorff_alpha(table[:, numbers])
        return 1.0 if math.isnan(found) else found  # a draw in which all are alike

    return bootstrap(of, len(items), draws=200)


_COLUMNS = ["first", "second", "", "ratings", "first wins", "ties", "second wins", "win rate without ties", "mean, -3 to 3"]  # fmt: skip


def _rows(study: Study, ratings: Sequence[Rating], group: Callable[[Item], str]) -> list[list[Any]]:
    """Wins and losses of each pair and group, with 95% intervals that know that ratings of one prompt go together."""
    found: dict[tuple[str, str, str], list[Rating]] = {}
    for r in ratings:
        item = study.items[r.item]
        found.setdefault((item.first, item.second, group(item)), []).append(r)
    rows: list[list[Any]] = []
    for key, these in sorted(found.items()):
        values = [r.value for r in these]
        decided = [r for r in these if r.value]
        rate = "" if not decided else _shown(mean([float(r.value > 0) for r in decided], [r.item for r in decided]), 100, "%")  # fmt: skip
        rows.append([
            *key, len(values), sum(v > 0 for v in values), values.count(0), sum(v < 0 for v in values), rate,
            _shown(mean(values, [r.item for r in these]), 1, ""),
        ])  # fmt: skip
    return rows


def _shown(one: Interval, scale: float, unit: str) -> str:
    digits = 0 if unit else 2
    return f"{one.value * scale:.{digits}f}{unit} ({one.low * scale:.{digits}f} to {one.high * scale:.{digits}f})"


def summary(study: Study) -> tuple[list[Rating], int, Interval | None]:
    """The ratings that count, how many are left out because a reply told its model, and the raters' agreement."""
    names = {name for item in study.items for name in (item.first, item.second)}
    told = {k for k, item in enumerate(study.items) if any(reveals(reply, names) for reply in item.replies)}
    ratings = study.ratings()
    counted = [r for r in ratings if r.item not in told]
    return counted, len(ratings) - len(counted), agreement(counted)


def write_report(study: Study, path: Path) -> None:
    """One HTML page: wins and losses, agreement, raters, every item."""
    counted, left_out, alpha = summary(study)
    if not counted:
        raise ConfigError(f"{study.folder}: no ratings to report yet")
    report = Report(
        "Pairwise human evaluation",
        f"{len(counted):,} ratings of {len({r.item for r in counted})} of {len(study.items)} items by {len({r.rater for r in counted})} raters"
        f" on a scale of seven; intervals are 95%, clustered by item; {left_out} ratings are left out because a reply told its model.",
    )
    report.text(
        "Agreement (Krippendorff's alpha, ordinal): " + (str(alpha) if alpha else "cannot be told: all alike, or no item has two ratings")
    )  # fmt: skip
    report.heading("Wins and losses")
    report.table(_COLUMNS, _rows(study, counted, lambda _: "all"))
    for name in ("language", "kind"):
        report.heading(f"By {name}")
        report.table(_COLUMNS, _rows(study, counted, lambda item, name=name: getattr(item, name) or "unknown"))  # type: ignore[misc]
    report.heading("Raters")
    by = {name: [r for r in counted if r.rater == name] for name in study.plan.raters}
    report.table(
        ["rater", "rated", "of", "median seconds", *(f"{v:+d}" for v in range(-_SCALE, _SCALE + 1))],
        [
            [name, len(rs), len(study.assigned(name)), float(np.median([r.seconds for r in rs])) if rs else None,
             *(sum(r.value == v for r in rs) for v in range(-_SCALE, _SCALE + 1))]
            for name, rs in by.items()
        ],
    )  # fmt: skip
    report.heading("Items")
    report.examples(["language", "kind"], [
        ((item.language or "unknown", item.kind), f"{item.first} / {item.second}: {item.prompt[:100]}",
         "\n".join([*(f"{r.rater}: {r.value:+d}" for r in counted if r.item == k), "", item.prompt, "", f"== {item.first}", item.replies[0], "", f"== {item.second}", item.replies[1]]))
        for k, item in enumerate(study.items)
    ])  # fmt: skip
    report.write(path)
