"""What failures cost a long run: a simulation of many runs with the causes and counts of Llama 3's pre-training.

Table 5 of arXiv 2407.21783: 466 interruptions of 54 days on 16,384 GPUs, 47 of them planned. A failure is noticed, the job starts
again, and what was computed since the last checkpoint is computed anew.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from herd.errors import ConfigError
from herd.statistics import Interval

CAUSES = {
    "faulty GPU": 148, "HBM3 memory": 72, "software bug": 54, "network switch or cable": 35, "host maintenance": 32,
    "GPU SRAM": 19, "GPU system processor": 17, "NIC": 7, "NCCL watchdog": 7, "silent data corruption": 6,
    "GPU thermal or sensor": 6, "SSD": 3, "power supply": 3, "server chassis": 2, "IO expansion board": 2, "dependency": 2,
    "CPU": 2, "system memory": 2,
}  # fmt: skip
"""Unexpected interruptions by cause."""
PLANNED = 47
MEASURED_GPUS, MEASURED_HOURS = 16_384, 54 * 24.0
_REPLACED = frozenset(CAUSES) - {"software bug", "NCCL watchdog", "dependency", "network switch or cable"}
"""Causes after which a server leaves and a spare takes its place."""


@dataclass(frozen=True)
class Cluster:
    """A job and how it deals with failures; all times in seconds.

    `burst` is the mean number of failures that one brings with it within the hour (0: Poisson). `rate` multiplies the measured
    rate of every cause. `stall` is what a checkpoint keeps the job from computing, `repair` what a server needs to come back.
    `noticed` has the causes whose detection differs.
    """

    gpus: int = MEASURED_GPUS
    hours: float = MEASURED_HOURS
    detection: float = 60.0
    restart: float = 360.0
    interval: float = 600.0
    stall: float = 3.0
    spares: int = 64  # servers
    repair: float = 48 * 3600.0
    rate: float = 1.0
    burst: float = 0.0
    noticed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gpus", "hours", "interval"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number above 0")
        for name in ("detection", "restart", "stall", "spares", "repair", "rate", "burst"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.burst >= 1:
            raise ConfigError(f"burst is {self.burst}; expected below 1, or failures never end")

    def mean_time(self) -> float:
        """Seconds between unexpected failures."""
        per_second = sum(CAUSES.values()) / (MEASURED_HOURS * 3600) * self.gpus / MEASURED_GPUS * self.rate
        return 1 / per_second if per_second else math.inf


@dataclass(frozen=True)
class Outcome:
    """Over many simulated runs: shares of the time, and the time lost by what it was lost to."""

    effective: Interval
    failures: float  # a run, unexpected
    lost: dict[str, float]  # share of all time: detection, restart, repeated, checkpoints, waiting, planned


def events(cluster: Cluster, generator: np.random.Generator) -> list[tuple[float, str]]:
    """Failures of one run, (seconds from the start, cause), in order. Bursts keep the mean rate."""
    seconds, scale = cluster.hours * 3600, cluster.hours / MEASURED_HOURS
    own = 1 - cluster.burst  # each failure brings burst, which bring burst, ...: 1 / (1 - burst) in all
    found: list[tuple[float, str]] = []
    for cause, count in CAUSES.items():
        mean = count * scale * cluster.gpus / MEASURED_GPUS * cluster.rate * own
        for time in generator.random(generator.poisson(mean)) * seconds:
            found.append((float(time), cause))
            while generator.random() < cluster.burst:
                time += generator.exponential(1200.0)
                found.append((float(time), cause))
    planned = generator.random(generator.poisson(PLANNED * scale)) * seconds
    found += [(float(time), "planned") for time in planned]
    return sorted(event for event in found if event[0] < seconds)


def replay(cluster: Cluster, failures: list[tuple[float, str]]) -> dict[str, float]:
    """Seconds of one run by what they went to. Failures while the job is down prolong its standing still."""
    end, now = cluster.hours * 3600, 0.0
    spent = dict.fromkeys(("useful", "repeated", "checkpoints", "detection", "restart", "waiting", "planned"), 0.0)
    cycle = cluster.interval + cluster.stall
    away: list[float] = []  # when servers in repair come back

    def run(until: float) -> float:
        """Compute until a moment; returns the work since the last checkpoint."""
        span = max(0.0, until - now)
        whole = int(span // cycle)
        rest = min(span - whole * cycle, cluster.interval)
        spent["checkpoints"] += span - whole * cluster.interval - rest
        spent["useful"] += whole * cluster.interval + rest
        return rest

    def stand(kind: str, seconds: float) -> None:
        nonlocal now
        seconds = min(seconds, end - now)
        spent[kind] += seconds
        now += seconds

    for time, cause in failures:
        if time >= end:
            break
        if time > now:
            rest = run(time)
            now = time
            if cause == "planned":  # saved first, so nothing is repeated
                stand("planned", cluster.stall + cluster.restart)
                continue
            spent["useful"] -= rest
            spent["repeated"] += rest
        elif cause == "planned":
            continue
        stand("detection", cluster.noticed.get(cause, cluster.detection))
        if cause in _REPLACED:
            away = [back for back in away if back > now]
            if len(away) >= cluster.spares:
                stand("waiting", min(away) - now if away else cluster.repair)
            away.append(now + cluster.repair)
        stand("restart", cluster.restart)
    if now < end:
        run(end)
    return spent


def simulate(cluster: Cluster, runs: int = 200, seed: int = 0) -> Outcome:
    """Many runs of a job; the interval holds 95% of them."""
    if runs < 2:
        raise ConfigError(f"{runs} runs; expected 2 or more")
    generator = np.random.default_rng(seed)
    total = cluster.hours * 3600
    shares, counts, lost = [], [], []
    for _ in range(runs):
        failures = events(cluster, generator)
        spent = replay(cluster, failures)
        shares.append(spent.pop("useful") / total)
        counts.append(sum(cause != "planned" for _, cause in failures))
        lost.append({name: seconds / total for name, seconds in spent.items()})
    low, high = np.quantile(shares, [0.025, 0.975])
    mean = {name: float(np.mean([one[name] for one in lost])) for name in lost[0]}
    return Outcome(Interval(float(np.mean(shares)), float(low), float(high)), float(np.mean(counts)), mean)


def young(cluster: Cluster) -> float:
    """Seconds between checkpoints that cost least, to first order (Young, 1974): sqrt(2 stall MTBF)."""
    return math.sqrt(2 * cluster.stall * cluster.mean_time())


def daly(cluster: Cluster) -> float:
    """Daly's higher-order estimate (2006)."""
    stall, mean = cluster.stall, cluster.mean_time()
    if not math.isfinite(mean) or stall >= 2 * mean:
        return mean
    ratio = stall / (2 * mean)
    return math.sqrt(2 * stall * mean) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def best_interval(cluster: Cluster, runs: int = 100, seed: int = 0) -> tuple[float, Outcome]:
    """The interval of a grid around Young's with the most effective time; all see the same failures."""
    middle = young(cluster)
    if not 0 < middle < math.inf:
        raise ConfigError("the best interval needs failures and checkpoints that cost something")
    grid = [middle * 2 ** (i / 4) for i in range(-8, 9)]
    found = [(simulate(replace(cluster, interval=interval), runs, seed), interval) for interval in grid]
    outcome, interval = max(found, key=lambda pair: pair[0].effective.value)
    return interval, outcome


def improvements(cluster: Cluster, runs: int = 200, seed: int = 0) -> list[tuple[str, float]]:
    """What each improvement by itself would add to the share of effective time."""
    base = simulate(cluster, runs, seed).effective.value
    changes: list[tuple[str, dict[str, float]]] = [
        ("failures noticed in half the time", {"detection": cluster.detection / 2}),
        ("restarts in half the time", {"restart": cluster.restart / 2}),
        ("checkpoints that stall half as long", {"stall": cluster.stall / 2}),
        ("checkpoints twice as often", {"interval": cluster.interval / 2}),
        ("half the failures", {"rate": cluster.rate / 2}),
    ]
    return [
        (name, simulate(replace(cluster, **change), runs, seed).effective.value - base)  # type: ignore[arg-type]
        for name, change in changes
    ]
