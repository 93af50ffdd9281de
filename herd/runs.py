"""Anything long is a run: a folder with its recipe, log, state and results, the same in every room.

    FOLDER/recipe.toml   what was asked for, as it was resolved when the run was made
    FOLDER/run.json      kind, command, version, start; status and results when it ends
    FOLDER/log.jsonl     one line an event, appended

A run that is at work holds a lock on `lock`; when its process dies the lock is gone, so a killed run is seen as interrupted.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd.atomic import atomic_file
from herd.errors import ConfigError, FormatError

Status = Literal["new", "running", "interrupted", "done", "failed"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` says. Times are seconds since 1970."""

    kind: str
    version: str
    command: tuple[str, ...] = ()
    started: float = 0.0
    ended: float | None = None
    failure: str | None = None
    results: dict[str, Any] = {}


class Run:
    """One run's folder. `create` makes it, `open` finds it; `working` holds it while something is computed."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record

    @classmethod
    def create(cls, folder: Path, kind: str, recipe: str, *, version: str, command: Iterable[str] = ()) -> "Run":
        """A new run; ConfigError when the folder holds something already."""
        check_vacant(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / "recipe.toml") as temporary:
            temporary.write_text(recipe, "utf-8")
        run = cls(folder, Record(kind=kind, version=version, command=tuple(command), started=time.time()))
        run._save()
        return run

    @classmethod
    def open(cls, folder: Path, kind: str | None = None) -> "Run":
        """The run in a folder; FormatError when there is none, or one of another kind."""
        try:
            record = msgspec.json.decode((folder / "run.json").read_bytes(), type=Record)
        except OSError as error:
            raise FormatError(f"{folder}: holds no run ({error.strerror}: run.json)") from error
        except msgspec.MsgspecError as error:
            raise FormatError(f"{folder}/run.json: not a run's record ({error})") from error
        if kind is not None and record.kind != kind:
            raise FormatError(f"{folder}: holds a run of kind {record.kind}; expected {kind}")
        return cls(folder, record)

    @classmethod
    def of(
        cls, folder: Path, kind: str, recipe: str, *, other: str, version: str, command: Iterable[str] = ()
    ) -> "Run":  # fmt: skip
        """The run in a folder if it was made by this recipe, or a new one; `other` is the ConfigError where another made it."""
        if not (folder / "run.json").exists():
            return cls.create(folder, kind, recipe, version=version, command=command)
        run = cls.open(folder, kind)
        if run.recipe.read_text("utf-8") != recipe:
            raise ConfigError(other)
        return run

    @property
    def recipe(self) -> Path:
        """The recipe as it was resolved."""
        return self.folder / "recipe.toml"

    @property
    def status(self) -> Status:
        """What the run is at; a run whose process is gone without an end is interrupted."""
        if self.record.failure is not None:
            return "failed"
        if self.record.ended is not None:
            return "done"
        if not (self.folder / "lock").exists():
            return "new"
        with (self.folder / "lock").open("ab") as file:
            return "interrupted" if _taken(file.fileno()) else "running"

    @contextlib.contextmanager
    def working(self) -> Iterator["Run"]:
        """Hold the run; a failure is written into its record, an interruption leaves it to be resumed.

        ConfigError when another process holds it.
        """
        with (self.folder / "lock").open("ab") as file:
            if not _taken(file.fileno()):
                raise ConfigError(f"{self.folder}: another process is at this run; wait for it or stop it")
            self._change(ended=None, failure=None)
            try:
                yield self
            except Exception as error:
                self._change(ended=time.time(), failure=str(error) or type(error).__name__)
                raise

    def log(self, **values: Any) -> None:
        """Append one event with its time."""
        with (self.folder / "log.jsonl").open("ab") as file:
            file.write(msgspec.json.encode({"time": round(time.time(), 3), **values}) + b"\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """What was logged, oldest first; half a line at the end, from a kill, is passed over."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    with contextlib.suppress(msgspec.MsgspecError):
                        yield msgspec.json.decode(line, type=dict[str, Any])

    def finish(self, **results: Any) -> None:
        """The run is done, with these results."""
        self._change(ended=time.time(), results={**self.record.results, **results})

    def _change(self, **values: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **values)
        self._save()

    def _save(self) -> None:
        with atomic_file(self.folder / "run.json") as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self.record)) + b"\n")


def check_vacant(folder: Path) -> None:
    """ConfigError when a new run cannot be made in a folder, as it holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists already; name another folder, or resume the run that is in it")


def _taken(number: int) -> bool:
    """Whether this process could take the lock; it is held until the file is closed."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def found(folder: Path) -> list[Run]:
    """The runs in a folder and the folders below it, oldest first; what is damaged is passed over."""
    runs = []
    for directory, below, files in os.walk(folder):
        if "run.json" in files:
            with contextlib.suppress(FormatError):
                runs.append(Run.open(Path(directory)))
        below[:] = sorted(name for name in below if not name.startswith("."))
    return sorted(runs, key=lambda run: run.record.started)


def differences(runs: list[Run]) -> dict[str, list[Any]]:
    """Results of several runs side by side: a row for each name that any of them has, a value for each run."""
    names = dict.fromkeys(name for run in runs for name in run.record.results)
    return {name: [run.record.results.get(name) for run in runs] for name in names}
