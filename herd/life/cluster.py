"""Stages on the machines of a Ray cluster: those that do not need each other at once, training by as many processes as its layout says.

    [cluster]
    ray = "auto"      # or a cluster's HOST:PORT

Every machine has herd installed and sees the folders of recipe and run (a shared file system). What a stage made lies in its folder, and
whoever begins a stage goes on where its folder ends: a task that is lost with its machine begins again on another.
"""

import contextlib
import fcntl
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from herd.errors import ConfigError, HerdError, MissingDependencyError
from herd.life.kinds import KINDS, is_model, typed
from herd.life.recipe import Recipe, Stage, stages
from herd.life.run import made, make, sample
from herd.life.work import StoppedError, Work
from herd.progress import silent
from herd.weights.checkpoint import Checkpoint

TRIES = 20
"""Starts of a stage that is computed by several processes: each lost one costs what its last checkpoint does not hold."""


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know to make any stage."""

    recipe: Recipe
    base: Path
    out: Path
    find: Callable[[str], Checkpoint]

    def work(self) -> Work:
        """What the stages' functions are given on a worker; with what is done by now."""
        asked = stages(self.recipe, self.base, self.out)
        done = {stage.name: mark for stage in asked if (mark := made(stage))}
        return Work(self.find, silent, lambda _: None, lambda: False, {s.name: s for s in asked}, done, self.base)


def make_all(plan: Plan, asked: list[Stage], say: Callable[[str], None], stop: Callable[[], bool]) -> None:
    """Make what is not made yet. HerdError of the first stage that fails; StoppedError when `stop` says so."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("[cluster] ray needs Ray; pip install 'llama-herd[ray]'") from error
    try:
        ray.init(address=plan.recipe.cluster.ray, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"cluster.ray is {plan.recipe.cluster.ray!r}: no cluster there ({error}); start one: ray start --head"
        ) from error
    try:
        _Placing(plan, asked, say, stop).run()
    finally:
        ray.shutdown()


class _Placing:
    """Which stages are under way."""

    def __init__(self, plan: Plan, asked: list[Stage], say: Callable[[str], None], stop: Callable[[], bool]) -> None:
        import ray

        self._ray: Any = ray
        self._plan, self._say, self._stop = plan, say, stop
        self._asked = asked
        self._left = {stage.name: stage for stage in asked}
        self._done: set[str] = set()
        self._under: dict[Any, Stage] = {}
        self._gpus = bool(self._ray.cluster_resources().get("GPU"))

    def run(self) -> None:
        """Until all are made."""
        while self._left or self._under:
            self._start_what_can()
            ended, _ = self._ray.wait(list(self._under), num_returns=1, timeout=0.5)
            for one in ended:
                stage = self._under.pop(one)
                try:
                    self._ray.get(one)
                except self._ray.exceptions.RayTaskError as error:
                    raise _cause(error) from None
                self._say(f"{stage.name}: made")
                self._done.add(stage.name)
            if self._stop():
                for one in self._under:
                    self._ray.cancel(one, force=True)
                raise StoppedError(f"{', '.join(stage.name for stage in self._under.values())}: saved")

    def _start_what_can(self) -> None:
        before: list[str] = []
        for stage in self._asked:
            needs = list(before) if KINDS[stage.kind].last else stage.needs
            before.append(stage.name)
            if stage.name not in self._left:
                continue
            if all(name in self._done for name in needs):
                del self._left[stage.name]
                if made(stage):
                    self._say(f"{stage.name} ({stage.kind}): made before")
                    self._done.add(stage.name)
                else:
                    self._say(f"{stage.name} ({stage.kind}) ...")
                    self._under[self._start(stage)] = stage

    def _start(self, stage: Stage) -> Any:
        """Begin a stage; what tells of its end."""
        settings = typed(stage)
        processes = settings.layout.processes if stage.kind == "train" else 1
        if processes > 1:
            gang = self._ray.remote(num_cpus=0, max_retries=TRIES)(_gang)
            return gang.remote(self._plan, stage.name, processes, self._gpus)
        one = self._ray.remote(num_cpus=1, num_gpus=float(self._gpus), max_retries=-1)
        parts = [one(_part).remote(self._plan, stage.name, i) for i in range(_parts(stage, settings))]
        return one(_stage).remote(self._plan, stage.name, *parts)


def _cause(error: Any) -> Exception:
    """What went wrong on the worker, without Ray's words around it where the fault is told by one of ours."""
    cause = error
    while getattr(cause, "cause", None) is not None:
        cause = cause.cause
    return cause if isinstance(cause, HerdError) else error


def _parts(stage: Stage, settings: Any) -> int:
    """How many models a stage measures one after another that may as well be measured at once; 0 where there is one thing to do."""
    return len(settings.models) if stage.kind in ("evals", "redteam") and len(settings.models) > 1 else 0


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until nobody else is at a part: a worker may outlive the machine's being given up for lost."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _part(plan: Plan, name: str, number: int) -> None:
    """One model of several that a stage measures. Its results are found again when the stage itself is made."""
    work = plan.work()
    stage = work.stages[name]
    settings = typed(stage)
    with _alone(stage.folder / f"part-{number}.lock"):
        if not made(stage):
            one = msgspec.structs.replace(settings, models=(settings.models[number],))
            KINDS[stage.kind].make(stage, one, work)


def _stage(plan: Plan, name: str, *_parts: None) -> None:
    """A whole stage, and its model's samples."""
    work = plan.work()
    stage, settings = work.stages[name], typed(work.stages[name])
    with _alone(stage.folder / "stage.lock"):
        if not made(stage):
            make(stage, settings, work)
        if is_model(stage, settings):
            sample(stage, plan.recipe.samples, work)


def _gang(plan: Plan, name: str, processes: int, gpus: bool) -> None:
    """A stage that several processes compute together, each in its bundle of a placement group; begun again when one of them is lost."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {"CPU": 1.0, **({"GPU": 1.0} if gpus else {})}
    for tried in range(1, TRIES + 1):
        group = placement_group([bundle] * processes, strategy="PACK")
        tasks: list[Any] = []
        try:
            ray.get(group.ready())
            places = [PlacementGroupSchedulingStrategy(group, i) for i in range(processes)]
            put = ray.remote(num_cpus=1, num_gpus=float(gpus), max_retries=0)
            address = ray.get(put(_address).options(scheduling_strategy=places[0]).remote())
            tasks = [
                put(_rank).options(scheduling_strategy=place).remote(plan, name, i, processes, address)
                for i, place in enumerate(places)
            ]
            left = tasks
            while left:
                ended, left = ray.wait(left, num_returns=1)
                ray.get(ended)
            return
        except ray.exceptions.RayTaskError:
            raise  # the stage's own fault: it would be so again
        except ray.exceptions.RayError:
            if tried == TRIES:
                raise
        finally:
            for task in tasks:
                ray.cancel(task, force=True)
            remove_placement_group(group)


def _address() -> str:
    """Where the first process of a group can be met."""
    import ray

    cluster: Any = ray.util
    with socket.socket() as free:
        free.bind(("", 0))
        return f"{cluster.get_node_ip_address()}:{free.getsockname()[1]}"


def _rank(plan: Plan, name: str, rank: int, processes: int, address: str) -> None:
    """One process of several. The first writes what tells that the stage is done."""
    from herd.train.layout import meet, part

    work = plan.work()
    stage, settings = work.stages[name], typed(work.stages[name])
    meet(address, rank, processes)
    try:
        if rank:
            KINDS[stage.kind].make(stage, settings, work)
            return
        with _alone(stage.folder / "stage.lock"):
            if not made(stage):
                make(stage, settings, work)
    finally:
        part()
    sample(stage, plan.recipe.samples, work)
