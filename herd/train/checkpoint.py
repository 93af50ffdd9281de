"""States of a run on disk: staged in memory, written by a thread, checksummed, flushed and renamed at the end, so that the last whole
one survives a kill or a full disk. `herd.weights.run` says how the folder looks and reads it for everybody else.
"""

import hashlib
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from herd.atomic import atomic_folder
from herd.errors import ConfigError, FormatError
from herd.model.load import fill
from herd.train.layout import shared_like, whole
from herd.weights.run import WEIGHT, Part, State, Stored, read_state, states, verify
from herd.weights.tensors import write_tensors

_MOMENTS = {"first:": "exp_avg", "second:": "exp_avg_sq"}


@dataclass
class Progress:
    """How far a run is: steps, those that changed the weights, and tokens seen by all processes."""

    step: int = 0
    updates: int = 0
    tokens: int = 0


class Keeper:
    """Writes the states of one run and removes old ones."""

    def __init__(self, run: Path, keep: int, kept: Iterable[int] = ()) -> None:
        self._run, self._keep, self._kept = run, keep, frozenset(kept)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: "Progress", loader: dict[str, Any], *, base: str | None = None, scale: float = 0.0, first: bool = True,
    ) -> None:  # fmt: skip
        """Take a copy of everything and write it in the background; every process must ask, the `first` one writes."""
        self.wait()
        arrays: dict[str, np.ndarray] = {}
        for name, parameter in trained(model):
            arrays[WEIGHT + name] = _copied(parameter.detach())
            for prefix, key in _MOMENTS.items():
                if parameter in optimizer.state:
                    arrays[prefix + name] = _copied(optimizer.state[parameter][key])
        if not first:
            return
        parts = {name: [Part("rank-00000.safetensors", 0, len(array))] for name, array in arrays.items()}
        state = State(
            step=progress.step, updates=progress.updates, tokens=progress.tokens, loader=loader, parts=parts, files={}, base=base, scale=scale,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._write, args=(state, arrays), name="herd-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until what was saved is on disk; ConfigError when it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            newest = next(iter(states(self._run)), None)
            left = f"the one of {newest.name} is whole" if newest else "there is none yet"
            raise ConfigError(f"{self._run}: a checkpoint could not be written ({failure}); {left}") from failure

    def _write(self, state: State, arrays: dict[str, np.ndarray]) -> None:
        try:
            folder = self._run / "checkpoints" / f"step-{state.step:08}"
            if (folder / "state.json").exists():
                return
            folder.parent.mkdir(exist_ok=True)
            with atomic_folder(folder) as temporary:
                write_tensors(temporary / "rank-00000.safetensors", arrays)
                files = {}
                for file in temporary.iterdir():
                    with file.open("rb") as opened:
                        files[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
                state = msgspec.structs.replace(state, files=files)
                (temporary / "state.json").write_bytes(msgspec.json.encode(state))
            self._forget()
        except OSError as error:
            self._failure = error

    def _forget(self) -> None:
        for partial in (self._run / "checkpoints").glob(
            ".step-*.partial"
        ):  # of a process that was killed while writing
            shutil.rmtree(partial, ignore_errors=True)
        for old in states(self._run)[self._keep :]:
            if int(old.name.removeprefix("step-")) not in self._kept:
                (old / "state.json").unlink()
                shutil.rmtree(old, ignore_errors=True)


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name, a shared one once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _copied(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = whole(tensor).to("cpu", torch.float32, copy=True).numpy()
    return found


def newest(run: Path) -> tuple[Path, State] | None:
    """The newest state whose files are whole; those that are damaged are passed over. None where there is none at all.

    FormatError when there are some and all are damaged.
    """
    failure: FormatError | None = None
    for folder in states(run):
        try:
            state = read_state(folder)
            verify(folder, state)
        except FormatError as error:
            failure = error
            continue
        return folder, state
    if failure is not None:
        raise failure
    return None


@torch.no_grad()
def load(folder: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill a model and its optimizer from a state; ConfigError when it is another model's."""
    stored = Stored(folder, state)
    names = {name.removeprefix(WEIGHT) for name in stored.names() if name.startswith(WEIGHT)}
    wanted = dict(trained(model))
    if names != set(wanted):
        odd = sorted(names ^ set(wanted))[0]
        raise ConfigError(f"{folder}: its weights are not this recipe's model's: {odd} is in one and not in the other")
    for name, parameter in wanted.items():
        found = stored.tensor(WEIGHT + name)
        if found.shape != tuple(parameter.shape):
            raise ConfigError(
                f"{folder}: {name} has shape {list(found.shape)}; the recipe's model has {list(parameter.shape)}"
            )
        fill(parameter, torch.from_numpy(found.float32().copy()))
        moments = {
            key: shared_like(parameter, torch.from_numpy(stored.tensor(prefix + name).float32().copy()))
            for prefix, key in _MOMENTS.items()
            if prefix + name in stored.names()
        }
        if moments:
            optimizer.state[parameter] = {"step": torch.tensor(float(state.updates)), **moments}
