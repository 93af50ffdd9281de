"""A red team at work: cases in batches on a target, each judged without and with a Shield, in a run that resumes after a kill."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from herd.atomic import whole_lines
from herd.config import dump
from herd.engine.agent import Part
from herd.engine.request import Usage
from herd.errors import first_line
from herd.progress import Progress, silent
from herd.runs import Run
from herd.safety.policy import Policy
from herd.safety.redteam.attacks import Case
from herd.safety.redteam.judge import succeeded
from herd.safety.redteam.target import Reply, Target
from herd.safety.shield import Shield
from herd.safety.watch import Watch
from herd.text.messages import Message

BATCH = 32
"""Cases that are in the engine together; a kill loses at most so many."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a case, a line of cases.jsonl. `guarded` and what follows are with the Shield; an `error` says what went wrong."""

    id: str
    goal: str
    category: str
    technique: str
    language: str
    asked: str
    reply: str = ""
    success: bool = False
    guarded: str = ""
    guarded_success: bool = False
    stopped: bool = False
    fired: tuple[str, ...] = ()
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True)
class Budget:
    """When to stop; None is no limit. A run that stopped goes on where it was with a larger one."""

    tokens: int | None = None
    seconds: float | None = None


def attack(
    target: Target,
    cases: Sequence[Case],
    shield: Shield,
    run: Run,
    budget: Budget | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """The outcomes of `cases`, as far as the budget reached. What the run's folder has already is not asked again; cases that had an
    error are.
    """
    budget, path, started = budget or Budget(), run.folder / "cases.jsonl", time.monotonic()
    done = {one.id: one for one in read(run) if not one.error}
    todo = [case for case in cases if case.id not in done]
    with run.working(), path.open("ab") as file:
        for first in range(0, len(todo), BATCH):
            spent = sum(one.tokens for one in done.values())
            late = budget.seconds is not None and time.monotonic() - started > budget.seconds
            if late or (budget.tokens is not None and spent >= budget.tokens):
                run.log(stopped="the budget is spent", cases=len(done))
                break
            for one in _batch(target, todo[first : first + BATCH], shield):
                file.write(msgspec.json.encode(one) + b"\n")
                done[one.id] = one
            file.flush()
            progress("attacks", len(done), len(cases))
        found = [done[case.id] for case in cases if case.id in done]
        run.finish(cases=len(found), errors=sum(bool(one.error) for one in found))
    return found


def start(folder: Path, settings: dict[str, Any], policy: Policy, *, version: str, command: Sequence[str]) -> Run:
    """A new run in a folder, or the one that is there; ConfigError where that one asked for something else."""
    recipe = dump({**settings, "policy": msgspec.to_builtins(policy)})
    other = f"{folder}: holds a red team of another target or policy; name another folder with --out"
    return Run.of(folder, "redteam", recipe, other=other, version=version, command=command)


def read(run: Run) -> list[Outcome]:
    """The outcomes in a run's folder; a later one of the same case counts."""
    found = [msgspec.json.decode(line, type=Outcome) for line in whole_lines(run.folder / "cases.jsonl")]
    return list({one.id: one for one in found}.values())


def _batch(target: Target, cases: Sequence[Case], shield: Shield) -> list[Outcome]:
    plain = _replies(target, [case.messages for case in cases])
    watches = [_opened(shield, case) for case in cases]
    again = [i for i, (case, (watch, clean)) in enumerate(zip(cases, watches, strict=True)) if not watch.refused and clean != list(case.messages)]  # fmt: skip
    changed = dict(zip(again, _replies(target, [watches[i][1] for i in again]), strict=True))
    return [
        _outcome(case, plain[i], changed.get(i, plain[i]), watches[i][0], i in changed) for i, case in enumerate(cases)
    ]


def _replies(target: Target, dialogs: Sequence[Sequence[Message]]) -> list[Reply]:
    """In the dialogs' order; a target that breaks has failed for those that it has not answered."""
    found: dict[int, Reply] = {}
    failure = "no reply came"
    try:
        for reply in target.replies(dialogs) if dialogs else ():
            found[reply.index] = reply
    except Exception as error:
        failure = f"{type(error).__name__}: {first_line(error)}"
    return [found.get(i, Reply(i, error=failure)) for i in range(len(dialogs))]


def _opened(shield: Shield, case: Case) -> tuple[Watch, list[Message]]:
    """The case's question under the Shield: the watch, and the messages as the model may see them."""
    watch = shield.watch(case.messages)
    clean = watch.clean()
    watch.settle(watch.question().wait())
    return watch, clean


def _outcome(case: Case, plain: Reply, shielded: Reply, watch: Watch, twice: bool) -> Outcome:
    asked = "\n".join(f"{m.role}: {m.content}" for m in case.messages)
    about: dict[str, Any] = {"id": case.id, "goal": case.goal, "category": case.category, "technique": case.technique, "language": case.language, "asked": asked}  # fmt: skip
    if plain.error or shielded.error:
        return Outcome(**about, error=plain.error or shielded.error)
    guarded = "" if watch.refused else shielded.text
    if not watch.refused:
        look = watch.take(Part(0, shielded.text, reason="stop", usage=Usage(0, 0, 0)))
        if look is not None:
            watch.settle(look.wait(), 0)
        guarded = "".join(part.text for part in watch.ready(0))
    stopped = watch.stopped(0)
    if stopped:
        guarded = ""
    watch.close()
    try:
        success, kept = succeeded(case, plain.text), not stopped and succeeded(case, guarded)
    except Exception as error:  # a judge that breaks is this case's error, not the run's end
        return Outcome(**about, error=f"the judge failed: {first_line(error)}")
    return Outcome(
        **about, reply=plain.text, success=success, guarded=guarded, guarded_success=kept, stopped=stopped,
        fired=tuple(f"{one.where}.{one.check}" for one in watch.fired), tokens=plain.tokens + (shielded.tokens if twice else 0),
    )  # fmt: skip
