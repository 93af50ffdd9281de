"""Failures for real: a stream of them meets a small run of our trainer, and the time that was of use is compared with the simulation's.

Processes are killed, one is made slow, a bit of a weight flips. What watches knows nothing of the stream: it sees that a process is
gone, that steps take too long, that a loss is not what it was. Then all are stopped and go on from the last state that is beyond doubt.
"""

import contextlib
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from herd.errors import ConfigError, HerdError
from herd.plan.faults import CAUSES, MEASURED_GPUS, MEASURED_HOURS, Cluster, events, replay
from herd.progress import Progress, silent
from herd.weights.run import states

Kind = Literal["kill", "slow", "flip"]
_KINDS: dict[str, Kind] = {
    "silent data corruption": "flip", "GPU thermal or sensor": "slow", "NIC": "slow", "network switch or cable": "slow",
    "NCCL watchdog": "slow",
}  # fmt: skip
"""What becomes of a process by cause; all others kill it."""
_POLL = 0.02  # seconds
_SLOW = 5.0  # times the usual step, twice in a row
_PATIENCE = 10.0  # seconds without a step, at least
_PERIOD, _AWAKE = 0.4, 0.03  # a slow process computes so many seconds of so many
_LONGEST_START = 180.0  # seconds


def kind_of(cause: str) -> Kind:
    """What a cause does to a process."""
    return _KINDS.get(cause, "kill")


def stream(failures: int, seconds: float, seed: int) -> list[tuple[float, str]]:
    """A run of Table 5's rates, sped up, with so many failures in `seconds`; of every kind at least one, so that each is tried."""
    hours = seconds / 3600
    rate = failures / (sum(CAUSES.values()) * hours / MEASURED_HOURS / MEASURED_GPUS)
    cluster, generator = Cluster(gpus=1, hours=hours, rate=rate), np.random.default_rng(seed)
    found: list[tuple[float, str]] = []
    while len(found) != failures:
        found = [(at, cause) for at, cause in events(cluster, generator) if cause != "planned"]
    for kind, cause in (("flip", "silent data corruption"), ("slow", "NIC"), ("kill", "faulty GPU")):
        kinds = [kind_of(one) for _, one in found]
        if kind not in kinds:
            often = [i for i, one in enumerate(kinds) if kinds.count(one) > 1]
            found[often[len(often) // 2]] = (found[often[len(often) // 2]][0], cause)
    return found


class Watch:
    """Tells from the log whether a run is well: losses and seconds of the steps that stand."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def usual(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds[-50:]) if self.seconds else math.inf

    def wrong(self, loss: float) -> bool:
        """Whether a loss is none, or far above the last ones: by half a nat and by eight of their deviations."""
        last = self.losses[-20:]
        if not math.isfinite(loss):
            return True
        if len(last) < 5:
            return False
        middle = statistics.median(last)
        spread = 1.4826 * statistics.median(abs(one - middle) for one in last)
        return loss > middle + max(0.5, 8 * spread)

    def slow(self, seconds: Sequence[float]) -> bool:
        """Whether the last two steps took far too long."""
        return len(seconds) > 1 and min(seconds[-2:]) > _SLOW * self.usual()


@dataclass
class Measured:
    """What became of the time, in seconds: `total` of it, `useful` for steps that stand; each failure's kind, seconds until it was
    noticed, and seconds until the job computed again; the usual `step`, and what `every` steps cost beside them (`stall`).
    """

    total: float
    useful: float
    failures: list[tuple[Kind, float, float]]
    interval: float
    stall: float

    def cluster(self) -> Cluster:
        """The simulation's job with these parts."""
        noticed: dict[Kind, list[float]] = defaultdict(list)
        for kind, detection, _ in self.failures:
            noticed[kind].append(detection)
        means = {kind: statistics.mean(values) for kind, values in noticed.items()}
        causes = {cause: means[kind_of(cause)] for cause in CAUSES if kind_of(cause) in means}
        restart = statistics.mean(seconds for _, _, seconds in self.failures) if self.failures else 0.0
        return Cluster(
            gpus=1, hours=self.total / 3600, detection=0.0, noticed=causes, restart=restart, interval=self.interval,
            stall=self.stall,
        )  # fmt: skip


@dataclass
class Job:
    """The processes of a run, as torchrun would start them."""

    recipe: Path
    out: Path
    processes: int
    changes: Sequence[str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    slowed: subprocess.Popen[bytes] | None = None
    _read: int = 0

    def start(self) -> None:
        """Begin, or go on with what is in `out`."""
        words = [str(self.out)] if (self.out / "run.json").exists() else [str(self.recipe), *self.changes]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.slowed = None
        with self.errors.open("ab") as errors:
            self.running = [
                subprocess.Popen(
                    [sys.executable, "-m", "herd.train.rank", str(self.processes), str(self.out), *words], stderr=errors,
                    env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.processes),
                         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
                )
                for rank in range(self.processes)
            ]  # fmt: skip

    @property
    def errors(self) -> Path:
        """What the processes said on standard error."""
        return self.out.with_name(self.out.name + ".errors")

    def dead(self) -> bool:
        """Whether a process is gone."""
        return any(process.poll() is not None for process in self.running)

    def end(self) -> None:
        """Stop all that is left."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self.running:
            process.wait()
        self.running, self.slowed = [], None

    def lines(self) -> list[dict[str, Any]]:
        """What was logged since the last look."""
        path = self.out / "log.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [msgspec.json.decode(line) for line in whole.splitlines()]

    def strike(self, kind: Kind, rank: int) -> None:
        """A failure of one process."""
        process = self.running[rank % len(self.running)]
        if kind == "slow":
            self.slowed = process
        else:
            process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGUSR1)

    def breathe(self) -> None:
        """Let a slow process compute a little of the time."""
        if self.slowed is not None and self.slowed.poll() is None:
            awake = time.monotonic() % _PERIOD < _AWAKE
            self.slowed.send_signal(signal.SIGCONT if awake else signal.SIGSTOP)


class Rehearsal:
    """One run with its failures, from the first state on disk to the end of the time."""

    def __init__(self, job: Job, failures: Sequence[tuple[float, str]], every: int, seed: int) -> None:
        self.job, self.left, self.every = job, list(failures), every
        self._random = random.Random(seed)
        self.watch = Watch()
        self.steps: dict[int, float] = {}  # seconds of those that stand
        self._recent: list[float] = []  # seconds of steps since the last start
        self._seen = (0.0, 0)  # when, and which, the last step was
        self._between: list[float] = []  # seconds between one step's end and the next one's, less the step's
        self._hit: tuple[Kind, float] | None = None
        self._resumed: float | None = None
        self.noted: list[tuple[Kind, float, float]] = []
        self._noticed: tuple[Kind, float, float] | None = None

    def run(self, seconds: float, progress: Progress = silent) -> Measured:
        """Train for so long, with failures when they are due."""
        try:
            return self._run(seconds, progress)
        finally:
            self.job.end()

    def _run(self, seconds: float, progress: Progress) -> Measured:
        self._begin()
        began = self._seen[0]
        self.steps.clear()
        last = -1
        while (now := time.time()) < began + seconds:
            if int(now - began) != last:
                last = int(now - began)
                progress("seconds", last, int(seconds))
            up = self._noticed is None
            if up and self._hit is None and self.left and now - began >= self.left[0][0]:
                kind = kind_of(self.left.pop(0)[1])
                self._hit = (kind, now)
                self.job.strike(kind, self._random.randrange(self.job.processes))
            self.job.breathe()
            trouble = self._look()
            if trouble is not None:
                self._go_on(trouble, time.time())
            elif not up and time.time() - (self._noticed or ("kill", now, 0.0))[1] > _LONGEST_START:
                raise ConfigError(
                    f"{self.job.out}: the run did not come back within {_LONGEST_START:.0f} s; see {self.job.errors}"
                )
            time.sleep(_POLL)
        return self._measured(time.time() - began)

    def _begin(self) -> None:
        """Until the first state is on disk."""
        self.job.start()
        deadline = time.monotonic() + _LONGEST_START
        while not states(self.job.out):
            if self.job.dead() or time.monotonic() > deadline:
                said = self.job.errors.read_text("utf-8", "replace").strip().splitlines()
                raise ConfigError(f"{self.job.recipe}: the run did not begin: {said[-1] if said else 'no state came'}")
            self._look()
            time.sleep(_POLL)

    def _look(self) -> str | None:
        """Read the log; why the job must be stopped, or None."""
        for line in self.job.lines():
            if line["event"] == "start":
                self.steps = {step: taken for step, taken in self.steps.items() if step <= line["step"]}
                self._recent = []
            elif line["event"] == "step" and self._step(line):
                return "loss"
        if self.job.dead():
            return "gone"
        if self._noticed is not None or not self._recent:
            return None
        if self.watch.slow(self._recent):
            return "slow"
        return "silent" if time.time() - self._seen[0] > max(_PATIENCE, 20 * self.watch.usual()) else None

    def _step(self, line: dict[str, Any]) -> bool:
        """Note a step; whether its loss is wrong."""
        at, step, taken, loss = line["time"], line["step"], line["seconds"], line["loss"]
        if self.watch.wrong(math.nan if loss is None else loss):
            self._doubt(step - 1)
            return True
        if self._noticed is not None:  # the job computes again
            kind, when, detection = self._noticed
            self.noted.append((kind, detection, at - taken - when))
            self._noticed = None
        elif self._recent:
            self._between.append(at - self._seen[0] - taken)
        self.steps[step] = taken
        self._seen = (at, step)
        self._recent.append(taken)
        if not self.watch.slow(self._recent):
            self.watch.losses.append(loss)
            self.watch.seconds.append(taken)
        return False

    def _doubt(self, step: int) -> None:
        """A loss was wrong that the weights after `step` gave: their state, if there is one, is not gone on from."""
        for folder in states(self.job.out):
            if int(folder.name.removeprefix("step-")) >= step:
                (folder / "state.json").unlink()
                shutil.rmtree(folder, ignore_errors=True)

    def _go_on(self, trouble: str, now: float) -> None:
        """Stop what is left and start again."""
        if self._hit is None and self._noticed is None:
            raise ConfigError(f"{self.job.out}: trouble ({trouble}) without a failure; see {self.job.errors}")
        if self._hit is not None:
            kind, when = self._hit
            self._noticed, self._hit = (kind, now, now - when), None
        self.job.end()
        self.job.start()

    def _measured(self, total: float) -> Measured:
        if not self.steps or not self.noted:
            raise HerdError(
                f"{self.job.out}: no failure was overcome and no step stands; give more time, or fewer failures"
            )
        step = statistics.mean(self.steps.values())
        stall = max(0.0, self.every * statistics.mean(self._between)) if self._between else 0.0
        return Measured(total, sum(self.steps.values()), self.noted, self.every * step, stall)


@dataclass(frozen=True)
class Compared:
    """Shares of the time that were of use: as it was, and as the simulation has it with the same stream and the same parts."""

    measured: Measured
    effective: float
    simulated: float


def rehearse(
    recipe: Path, out: Path, *, seconds: float, failures: int, processes: int = 2, every: int = 10, seed: int = 0,
    changes: Sequence[str] = (), progress: Progress = silent, say: Callable[[str], None] = lambda _: None,
) -> Compared:  # fmt: skip
    """Train a recipe for `seconds` with `failures`, a state on disk `every` so many steps; see the module.

    ConfigError for what cannot be, and where the run stumbles over something that was no failure of the stream.
    """
    if processes < 1 or every < 1 or failures < 3 or seconds < 30:
        raise ConfigError(f"{failures} failures in {seconds:g} s, {processes} processes, a state every {every} steps: expected 3 or more in 30 s or more, 1 or more, 1 or more")  # fmt: skip
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = stream(failures, seconds, seed)
    for at, cause in drawn:
        say(f"{at:7.1f} s  {kind_of(cause)}: {cause}")
    fixed = ("schedule.steps=1000000", "validate_every=0", f"checkpoints.every={every}", "checkpoints.keep=3")
    job = Job(recipe.resolve(), out, processes, (*changes, *fixed))
    measured = Rehearsal(job, drawn, every, seed).run(seconds, progress)
    cluster = measured.cluster()
    spent = replay(replace(cluster, spares=len(drawn) + 1), drawn)
    return Compared(measured, measured.useful / measured.total, spent["useful"] / measured.total)
