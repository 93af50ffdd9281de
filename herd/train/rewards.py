"""What an answer is worth: checks by name, a function of the user's own file, a reward model. See docs/how-to/train.md."""

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.errors import ConfigError, first_line
from herd.text.messages import Message
from herd.tools.check import numeric, passes
from herd.tools.sandbox import Sandbox
from herd.train.recipe import RewardTerm
from herd.train.score import RewardModel
from herd.weights.checkpoint import Checkpoint

_NUMBERS = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(r"####\s*(-?\$?\d[\d,]*(?:\.\d+)?)")
_FENCE = re.compile(r"```[\w+#-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """A prompt in tokens and as messages, the line of JSON it comes from, and where that stands."""

    tokens: tuple[int, ...]
    messages: tuple[Message, ...]
    line: Mapping[str, Any]
    where: str


Worth = Callable[[Sequence[tuple[Task, str]]], list[float]]
"""Rewards of answers, each with its task."""
Check = Callable[[str, Mapping[str, Any]], float]
"""The reward of one answer to the prompt of a line of JSON."""


def last_number(answer: str, line: Mapping[str, Any]) -> float:
    """1 when the last number of the answer is the line's `answer`."""
    found = _NUMBERS.findall(answer)
    return float(bool(found) and numeric(found[-1]) == _gold(line))


def marked_number(answer: str, line: Mapping[str, Any]) -> float:
    """1 when the number after the last #### is the line's `answer`, as GSM8K writes it."""
    found = _MARKED.findall(answer)
    return float(bool(found) and numeric(found[-1]) == _gold(line))


def code_passes(answer: str, line: Mapping[str, Any]) -> float:
    """1 when the longest block of code in the answer, or all of it, runs to its end in the sandbox with the line's `tests`."""
    blocks = _FENCE.findall(answer)
    code = max(blocks, key=len) if blocks else answer
    return float(passes(f"{code}\n{line['tests']}", "python")[0])


def _gold(line: Mapping[str, Any]) -> float | None:
    return numeric(str(line["answer"]).rpartition("####")[2])


CHECKS: dict[str, tuple[Check, str]] = {
    # name -> check, the key of a line that it reads
    "number": (last_number, "answer"), "gsm8k": (marked_number, "answer"), "code": (code_passes, "tests"),
}  # fmt: skip


def make_reward(term: RewardTerm, folder: Path, tasks: Sequence[Task], find: Callable[[str], Checkpoint]) -> Worth:
    """The reward of a recipe's term; ConfigError when it cannot be given to one of the tasks, or not on this machine."""
    if term.model is not None:
        return _by_model(RewardModel(find(term.model), term.model))
    if term.file is not None:
        return _each(_from_file(folder / term.file, term.function), f"{term.file}: {term.function}")
    if term.check == "format":
        pattern = re.compile(term.pattern or "", re.DOTALL)
        return _each(lambda answer, _: float(pattern.fullmatch(answer.strip()) is not None), "format")
    check, key = CHECKS[term.check or ""]
    for task in tasks:
        if key not in task.line or (key == "answer" and _gold(task.line) is None):
            raise ConfigError(f"{task.where}: reward {term.check} needs {key!r}" + (", a number" * (key == "answer")))
    if term.check == "code":
        Sandbox().check()
    return _each(check, term.check or "")


def _each(check: Check, name: str) -> Worth:
    def reward(answers: Sequence[tuple[Task, str]]) -> list[float]:
        found = []
        for task, text in answers:
            try:
                value = float(check(text, task.line))
            except Exception as error:
                raise ConfigError(f"reward {name} fails on an answer to {task.where}: {first_line(error)}") from error
            if not math.isfinite(value):
                raise ConfigError(f"reward {name} is {value} for an answer to {task.where}; expected a finite number")
            found.append(value)
        return found

    return reward


def _by_model(model: RewardModel) -> Worth:
    return lambda answers: model([model.tokens([*task.messages, Message("assistant", text)]) for task, text in answers])


def _from_file(path: Path, name: str) -> Check:
    """A function of a Python file that the recipe's author wrote; the file is run as any of their programs."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ConfigError(f"{path}: no such Python file; a reward is a function `{name}(answer, line)` in it")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be run ({first_line(error)})") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"{path}: has no function {name}(answer, line)")
    return found  # type: ignore[no-any-return]
