"""What the functions of all stages are given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from herd.atomic import atomic_file
from herd.errors import HerdError
from herd.life.recipe import Stage
from herd.progress import Progress
from herd.text.messages import Message
from herd.weights.checkpoint import Checkpoint


class StoppedError(HerdError):
    """The user stopped a stage; what it has is saved."""


@dataclass(frozen=True)
class Work:
    """Models by path or name, where progress goes, whether to stop; the stages before and their results; the recipe's folder."""

    find: Callable[[str], Checkpoint]
    show: Progress
    step: Callable[[dict[str, Any]], None]  # what training logs
    stop: Callable[[], bool]
    stages: dict[str, Stage]
    done: dict[str, dict[str, Any]]
    base: Path

    def reward(self, place: str) -> Callable[[str, str], float]:
        """What the reward model at a place says of a prompt and a reply."""
        from herd.train.score import RewardModel

        model = RewardModel(self.find(place), place)

        def score(prompt: str, reply: str) -> float:
            return model([model.tokens([Message("user", prompt), Message("assistant", reply)])[-model.context :]])[0]

        return score


def save_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
