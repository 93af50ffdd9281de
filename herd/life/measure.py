"""Stages that measure: evaluation of several models on the same items, an arena in which they meet, and a red team that attacks them."""

import asyncio
import itertools
import shlex
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd import __version__
from herd.arena.contestants import open_contestants
from herd.arena.judge import Judge, Judged, Verdict, judge_all, model_judge, rule_judge
from herd.arena.replies import Prompt, Replies, read_prompts
from herd.arena.standings import standings
from herd.arena.votes import Votes
from herd.engine.agent import Agent
from herd.engine.open import open_engine
from herd.errors import ConfigError
from herd.evals.compare import compared
from herd.evals.run import Settings, evaluate, start
from herd.evals.source import Places
from herd.evals.target import engine_target
from herd.evals.task import choose
from herd.life.recipe import Stage
from herd.life.work import Work
from herd.safety.policy import read_policy
from herd.safety.redteam import attacks
from herd.safety.redteam.report import write
from herd.safety.redteam.run import attack
from herd.safety.redteam.run import start as start_attack
from herd.safety.redteam.target import Local
from herd.safety.shield import Shield


class Evals(msgspec.Struct, frozen=True, kw_only=True):
    """`models` (stages, in the order in which they were made) on `tasks`; `files` define tasks of one's own, whose data lies in `data`."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    files: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    limit: int | None = None
    chat: bool = False


class Arena(msgspec.Struct, frozen=True, kw_only=True):
    """`models` answer the first `limit` `prompts`; every pair is judged by a `judge` (a model that is asked), a `reward` model or a `rule`."""

    models: tuple[str, ...]
    prompts: str
    judge: str | None = None
    reward: str | None = None
    rule: Literal["longer", "shorter", "answer"] | None = None
    limit: int | None = None
    max_tokens: int = 128

    def check(self) -> "Arena":
        """The settings; ConfigError naming what cannot be."""
        if sum(one is not None for one in (self.judge, self.reward, self.rule)) != 1:
            raise ConfigError("give one of judge, reward and rule")
        if len(self.models) < 2:
            raise ConfigError(f"models: {len(self.models)}; expected two or more")
        return self


class RedTeam(msgspec.Struct, frozen=True, kw_only=True):
    """The first `cases` attacks and the ordinary questions in `languages` on each of `models`, without and with a Shield of `policy`."""

    models: tuple[str, ...]
    policy: str = "block"
    languages: tuple[str, ...] = ("en",)
    cases: int = 100
    max_tokens: int = 64


def name_of(place: str, work: Work) -> str:
    """What a model is called: its stage, or its own name."""
    return next((s.name for s in work.stages.values() if place.startswith(str(s.made))), Path(place).stem)


def evaluate_stages(stage: Stage, settings: Evals, work: Work) -> dict[str, Any]:
    """Figures by model, and what each differs from the one before it, paired on the items."""
    tasks = choose(settings.tasks, [Path(file) for file in settings.files])
    places, asked = Places(tuple(map(Path, settings.data))), Settings(limit=settings.limit)
    figures: dict[str, Any] = {}
    commands = []
    for place in settings.models:
        name = name_of(place, work)
        target = engine_target(name, work.find(place), settings.chat)
        try:
            run = start(stage.made / name, target, tasks, asked, ["herd", "run"])
            found = evaluate(target, tasks, places, run, asked, work.show)
        finally:
            target.engine.close()
        if absent := [figure.absent for figure in found if figure.value is None]:
            raise ConfigError(f"stages.{stage.name}: {absent[0]}")
        figures[name] = [msgspec.to_builtins(figure) for figure in found]
        command = ["herd", "eval", place, "--tasks", ",".join(settings.tasks), "--out", "again"]
        command += [word for file in settings.files for word in ("--task-file", file)]
        command += [word for folder in settings.data for word in ("--data", folder)]
        command += ["--limit", str(settings.limit)] if settings.limit else []
        commands.append(shlex.join([*command, *(["--chat"] if settings.chat else [])]))
    names, paired_too = list(figures), any(task.kind != "rolling" for task in tasks)
    steps = [
        {"task": task, "from": a, "to": b, **{k: getattr(pair.difference, k) for k in ("value", "low", "high")}}
        for a, b in itertools.pairwise(names)
        for task, pair in (compared(stage.made / a, stage.made / b).items() if paired_too else ())
    ]
    return {"figures": figures, "steps": steps, "again": "\n".join(commands)}


def judge_stages(stage: Stage, settings: Arena, work: Work) -> dict[str, Any]:
    """The standings."""
    stage.made.mkdir(exist_ok=True)
    places = [f"{name_of(place, work)}={place}" for place in settings.models]
    prompts = read_prompts(Path(settings.prompts))[: settings.limit]

    async def vote(votes: Votes) -> Judged:
        limit: dict[str, Any] = {"max_tokens": settings.max_tokens, "temperature": 0, "cache_tokens": None}
        contestants = open_contestants(places, work.find, **limit)
        judges = [] if settings.judge is None else open_contestants([settings.judge], work.find, **limit)
        try:
            if settings.reward is not None:
                voter, name = _reward_judge(settings.reward, work), f"reward model {name_of(settings.reward, work)}"
            elif settings.rule is not None:
                voter, name = rule_judge(settings.rule), settings.rule
            else:
                voter, name = model_judge(judges[0]), judges[0].version
            replies = Replies(stage.made / "replies.jsonl")
            return await judge_all(contestants, prompts, voter, name, votes, replies, progress=work.show)
        finally:
            for one in (*contestants, *judges):
                await one.close()

    with Votes(str(stage.made / "votes.db")) as votes:
        judged = asyncio.run(vote(votes))
        if judged.failed:
            raise ConfigError(f"stages.{stage.name}: {len(judged.failed)} pairs failed; the first: {judged.failed[0]}")
        rows, helped = standings(votes.table())
        ranking = [{k: getattr(row, k) for k in ("name", "best", "worst", "points", "low", "high", "votes")} for row in rows]  # fmt: skip
    again = f"herd arena rank --votes {shlex.quote(str(stage.made / 'votes.db'))}"
    return {"standings": ranking, "helped": helped, "prompts": len(prompts), "again": again}


def _reward_judge(place: str, work: Work) -> Judge:
    score = work.reward(place)

    async def judge(prompt: Prompt, left: str, right: str) -> Verdict:
        a, b = (score(prompt.prompt, reply) for reply in (left, right))
        return "both good" if a == b else ("left" if a > b else "right")

    return judge


def attack_stages(stage: Stage, settings: RedTeam, work: Work) -> dict[str, Any]:
    """How often attacks on each model succeed, without and with the Shield."""
    found: dict[str, Any] = {}
    commands = []
    asked = {"languages": settings.languages, "max_tokens": settings.max_tokens}
    with Shield(read_policy(settings.policy)) as shield:
        wanted = attacks.cases(settings.languages, score=shield.looks)[: settings.cases]
        for place in settings.models:
            name, checkpoint = name_of(place, work), work.find(place)
            run = start_attack(stage.made / name, {"target": place, **asked}, shield.policy, version=__version__, command=["herd", "run"])  # fmt: skip
            with open_engine(checkpoint) as engine:
                target = Local(Agent(engine, checkpoint.chat_format()), settings.max_tokens)
                outcomes = attack(
                    target, [*attacks.ordinary(settings.languages), *wanted], shield, run, progress=work.show
                )
            found[name] = write(outcomes, stage.made / name, f"Red team: {name}")
            command = [
                "herd",
                "redteam",
                place,
                "--safety",
                settings.policy,
                "--languages",
                ",".join(settings.languages),
            ]
            commands.append(shlex.join([*command, "--cases", str(settings.cases), "--out", "again"]))
    return {"red team": found, "again": "\n".join(commands)}
