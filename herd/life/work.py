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


def save_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
