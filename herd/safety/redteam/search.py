"""Attacks that are made against the model itself: crescendo, whose way to a goal the model writes, and a suffix found by its scores."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from herd.atomic import atomic_file
from herd.engine.agent import Agent
from herd.engine.request import Request, SamplingParams
from herd.safety.redteam.attacks import Case, data
from herd.safety.redteam.target import Target
from herd.text.messages import Message

_TOGETHER = 8  # suffixes that are tried in one step


def kept(path: Path, make: Callable[[], Sequence[Case]]) -> list[Case]:
    """What was made once, from its file; else it is made: a run that goes on attacks by the same texts."""
    if not path.exists():
        made = msgspec.json.encode(list(make()))
        with atomic_file(path) as temporary:
            temporary.write_bytes(made)
    return msgspec.json.decode(path.read_bytes(), type=list[Case])


def crescendo(cases: Sequence[Case], target: Target, turns: int = 2) -> list[Case]:
    """For each direct case one in which harmless questions lead up to it (Russinovich and others 2024, arXiv 2404.01833).

    The target writes the questions itself, and answers them; the goal refers to what it has said. Cases that it does not answer
    are left out.
    """
    ways: list[list[Message] | None] = [[m for m in case.messages if m.role == "system"] for case in cases]
    told = data()["crescendo"]
    for turn in range(turns):
        asks = [
            _ask(told["first" if not turn else "next"][case.language], case, way)
            for case, way in zip(cases, ways, strict=True)
        ]
        written = _answers(target, asks)
        for i, question in enumerate(written):
            way = ways[i]
            ways[i] = (
                None if way is None or not question else [*way, Message("user", question.strip().strip('"')[:400])]
            )
        for i, answer in enumerate(_answers(target, ways)):
            way = ways[i]
            ways[i] = None if way is None or not answer else [*way, Message("assistant", answer)]
    return [
        msgspec.structs.replace(
            case, id=f"{case.goal}-crescendo-{case.language}", technique="crescendo",
            messages=(*way, Message("user", told["last"][case.language].format(goal=case.messages[-1].content))),
        )
        for case, way in zip(cases, ways, strict=True) if way is not None
    ]  # fmt: skip


def _ask(frame: str, case: Case, way: Sequence[Message] | None) -> list[Message] | None:
    if way is None:
        return None
    said = way[-1].content if way and way[-1].role == "assistant" else ""
    return [Message("user", frame.format(goal=case.messages[-1].content, said=said[:600]))]


def _answers(target: Target, dialogs: Sequence[Sequence[Message] | None]) -> list[str]:
    """A reply for each dialog; empty where there is no dialog, or none came."""
    at = [i for i, dialog in enumerate(dialogs) if dialog is not None]
    found = [""] * len(dialogs)
    for reply in target.replies([dialog for dialog in dialogs if dialog is not None]) if at else ():
        found[at[reply.index]] = "" if reply.error else reply.text
    return found


def suffixes(cases: Sequence[Case], agent: Agent, tries: int) -> list[Case]:
    """For each direct case one with a suffix after which the model most likely begins its answer by agreeing.

    Random search over words (Andriushchenko and others 2024, arXiv 2404.02151): of `tries` changed suffixes each that is better than
    the best so far takes its place. The score is the log-probability of the words of agreement in the case's language.
    """
    return [_suffix(case, agent, tries) for case in cases]


def _suffix(case: Case, agent: Agent, tries: int) -> Case:
    rng = random.Random(case.id)
    words = sorted({w for text in data()["ordinary"][case.language] for w in text.split()} | set("!?:;,.-=*#{}[]()"))
    agree = agent.engine.tokenizer.encode(data()["crescendo"]["agree"][case.language])
    best = [rng.choice(words) for _ in range(12)]
    (top,) = _scores(case, [best], agent, agree)
    for _ in range(0, tries, _TOGETHER):
        changed = []
        for _ in range(_TOGETHER):
            one = list(best)
            for at in rng.sample(range(len(one)), rng.randint(1, 3)):
                one[at] = rng.choice(words)
            changed.append(one)
        score, at = max((score, i) for i, score in enumerate(_scores(case, changed, agent, agree)))
        if score > top:
            top, best = score, changed[at]
    return msgspec.structs.replace(
        case, id=f"{case.goal}-suffix-{case.language}", technique="suffix", messages=_with(case, best)
    )


def _with(case: Case, suffix: Sequence[str]) -> tuple[Message, ...]:
    return (*case.messages[:-1], Message("user", f"{case.messages[-1].content} {' '.join(suffix)}"))


def _scores(case: Case, tried: Sequence[Sequence[str]], agent: Agent, agree: Sequence[int]) -> list[float]:
    requests = []
    for i, suffix in enumerate(tried):
        prompt = agent.turns(_with(case, suffix), SamplingParams()).request().prompt
        requests.append(
            Request(prompt=[*prompt, *agree], params=SamplingParams(max_tokens=0), score_from=len(prompt), id=str(i))
        )
    found = [-1e9] * len(tried)
    for done in agent.engine.run(requests):
        if done.error is None:
            found[int(done.request.id)] = sum(one.logprob for one in done.prompt_logprobs or () if one is not None)
    return found
