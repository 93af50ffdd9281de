"""Rejection sampling (arXiv 2407.21783, section 4.2.2): several answers to each prompt by the engine; a check or a reward model keeps the
best, or the best and the worst, as lines that `sft` and `dpo` recipes read.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd.atomic import whole_lines
from herd.engine.engine import Engine
from herd.engine.request import Completion, Request, SamplingParams
from herd.errors import ConfigError
from herd.progress import Progress, silent
from herd.train.rewards import Task, Worth

_AT_ONCE = 32  # prompts whose answers are judged and written together


@dataclass(frozen=True)
class Sampling:
    """`kind`: messages keeps the best answer, pairs the best and the worst, given the line's own `completion` as the better one and the
    model's first answer as the worse (arXiv 2401.01335). An answer is kept for `at_least` so much reward, and if `whole` only
    where it came to its end.
    """

    kind: Literal["messages", "pairs", "given"] = "messages"
    samples: int = 8
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    at_least: float | None = None
    whole: bool = True

    def check(self) -> None:
        """ConfigError naming the first setting that cannot be."""
        if self.samples < (least := 1 if self.kind == "given" else 2):
            raise ConfigError(f"samples is {self.samples}; expected {least} or more, to choose among")
        if self.max_tokens < 1:
            raise ConfigError(f"max tokens is {self.max_tokens}; expected 1 or more")
        if not 0 < self.temperature <= 100:
            raise ConfigError(f"temperature is {self.temperature}; expected above 0: greedy answers are all the same")


def rejection_sample(
    engine: Engine, tasks: Sequence[Task], rewards: Sequence[tuple[float, Worth]], settings: Sampling, out: Path,
    progress: Progress = silent, *, asked: str = "",
) -> Counter[str]:  # fmt: skip
    """Write a line for each prompt whose answers differ in worth, in the order of the prompts; how many were kept, and why the others
    were not. A file that is there is gone on with: the answers to a prompt depend on its text and the seed alone.

    ConfigError when the file was written from other prompts, or as something else was `asked` for (settings, model, rewards in a word).
    """
    settings.check()
    seen: Counter[str] = Counter()
    first = _done(out, tasks, asked)
    seen["there already"] = len(whole_lines(out))
    with out.open("ab") as file:
        while first < len(tasks):
            part, lines = tasks[first : first + _AT_ONCE], []
            for line, reason in _chosen(engine, part, rewards, settings):
                seen[reason] += 1
                if line is not None:
                    lines.append(msgspec.json.encode({**line, "asked": asked}) + b"\n")
            file.writelines(lines)
            file.flush()
            first += len(part)
            progress("answering", first, len(tasks), f"{seen['kept']} kept")
    return seen


def _done(out: Path, tasks: Sequence[Task], asked: str) -> int:
    """How many tasks a file's lines have dealt with."""
    lines = whole_lines(out)
    if not lines:
        return 0
    try:
        last = msgspec.json.decode(lines[-1])
        where, before = str(last["from"]), str(last["asked"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{out}: is no file of this command; name another with --out") from error
    if before != asked:
        raise ConfigError(
            f"{out}: was written with another model, other rewards or settings; name another file with --out"
        )
    places = [task.where for task in tasks]
    if where not in places:
        raise ConfigError(f"{out}: was written from other prompts ({where}); name another file with --out")
    return places.index(where) + 1


def _chosen(
    engine: Engine, tasks: Sequence[Task], rewards: Sequence[tuple[float, Worth]], settings: Sampling
) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """A line for each task, or None and the reason."""
    groups = _answers(engine, tasks, settings)
    pairs = [(task, one.text.strip()) for task, group in zip(tasks, groups, strict=True) for one in group]
    worth = [0.0] * len(pairs)
    for weight, reward in rewards:
        worth = [a + weight * b for a, b in zip(worth, reward(pairs), strict=True)]
    for i, (task, group) in enumerate(zip(tasks, groups, strict=True)):
        span = slice(i * settings.samples, (i + 1) * settings.samples)
        judged = [
            (value, text)
            for value, (_, text), one in zip(worth[span], pairs[span], group, strict=True)
            if text and (one.finish_reason == "stop" or not settings.whole)
        ]
        yield _line(task, judged, settings)


def _line(task: Task, judged: list[tuple[float, str]], settings: Sampling) -> tuple[dict[str, Any] | None, str]:
    """Ties go to the first."""
    if not judged:
        return None, "no whole answer"
    if settings.kind == "given":
        return _given(task, judged[0][1])
    best, worst = max(judged, key=lambda one: one[0]), min(judged, key=lambda one: one[0])
    if settings.at_least is not None and best[0] < settings.at_least:
        return None, "none good enough"
    if best[0] == worst[0] and (settings.kind == "pairs" or settings.at_least is None):
        return None, "all worth the same"
    line: dict[str, Any] = {"prompt": task.line["prompt"]}
    if settings.kind == "messages":
        line |= {"completion": best[1], "reward": best[0]}
    else:
        line |= {"chosen": best[1], "rejected": worst[1], "rewards": [best[0], worst[0]]}
    return {**line, "from": task.where}, "kept"


def _given(task: Task, answer: str) -> tuple[dict[str, Any] | None, str]:
    """The line's own completion beside the model's answer."""
    wanted = task.line.get("completion")
    if not isinstance(wanted, str) or not wanted.strip():
        raise ConfigError(f"{task.where}: has no completion, a string, to prefer to the model's answer")
    if wanted.strip() == answer:
        return None, "the same"
    return {"prompt": task.line["prompt"], "chosen": wanted, "rejected": answer, "from": task.where}, "kept"


def _answers(engine: Engine, tasks: Sequence[Task], settings: Sampling) -> list[list[Completion]]:
    def request(i: int, task: Task) -> Request:
        digest = hashlib.sha256(
            msgspec.json.encode((settings.seed, task.where.rpartition(":")[2], task.tokens))
        ).digest()
        params = SamplingParams(
            n=settings.samples, max_tokens=settings.max_tokens, temperature=settings.temperature,
            seed=int.from_bytes(digest[:8], "little") >> 1,
        )  # fmt: skip
        return Request(prompt=task.tokens, params=params, id=str(i))

    groups: list[list[Completion]] = [[] for _ in tasks]
    for completion in engine.run(request(i, task) for i, task in enumerate(tasks)):
        if completion.error is not None:
            raise completion.error
        groups[int(completion.request.id)].append(completion)
    return [sorted(group, key=lambda one: one.index) for group in groups]
