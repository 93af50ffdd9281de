"""States of a run on disk: staged in memory, written by a thread, checksummed, flushed and renamed at the end, so that the last whole
one survives a kill or a full disk. `herd.weights.run` says how the folder looks and reads it for everybody else.
"""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from herd.atomic import flush
from herd.errors import ConfigError, FormatError
from herd.model.load import fill, held, whole
from herd.train.layout import Layout
from herd.train.pipeline import Pipeline, is_copy, named_parameters
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
    """Writes the states of one run and removes old ones. Each process of `layout` writes a file of its own; the first one commits."""

    def __init__(self, run: Path, keep: int, kept: Iterable[int] = (), layout: Layout | None = None) -> None:
        self._run, self._keep, self._kept = run, keep, frozenset(kept)
        self._layout = layout or Layout()
        # of its own, so that writing goes on beside training
        self._group = None if self._layout.mesh is None else dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def save(
        self, model: Any, optimizer: torch.optim.Optimizer, progress: "Progress", loader: dict[str, Any], *, base: str | None = None, scale: float = 0.0,
    ) -> None:  # fmt: skip
        """Take a copy of everything that is here and write it in the background; every process must ask."""
        self.wait()
        arrays: dict[str, np.ndarray] = {}
        parts: dict[str, Part] = {}
        file = f"rank-{0 if self._group is None else dist.get_rank():05}.safetensors"
        for name, parameter in trained(model):
            rows, columns = _place(parameter)
            if is_copy(model, name) or not self._layout.writes(parameter) or rows.start == rows.stop:
                continue
            part = Part(file, rows.start, rows.stop, columns)
            arrays[WEIGHT + name], parts[WEIGHT + name] = _copied(parameter.detach()), part
            for prefix, key in _MOMENTS.items():
                if parameter in optimizer.state:
                    arrays[prefix + name], parts[prefix + name] = _copied(optimizer.state[parameter][key]), part
        state = State(
            step=progress.step, updates=progress.updates, tokens=progress.tokens, loader=loader, parts={}, files={}, base=base, scale=scale,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._write, args=(state, arrays, parts), name="herd-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until what was saved is on disk; ConfigError, on every process, when it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            newest = next(iter(states(self._run)), None)
            left = f"the one of {newest.name} is whole" if newest else "there is none yet"
            raise ConfigError(f"{self._run}: a checkpoint could not be written ({failure}); {left}")

    def _write(self, state: State, arrays: dict[str, np.ndarray], parts: dict[str, Part]) -> None:
        try:
            self._failure = self._commit(state, arrays, parts)
        except RuntimeError as error:  # another process is gone
            self._failure = str(error)

    def _commit(self, state: State, arrays: dict[str, np.ndarray], parts: dict[str, Part]) -> str | None:
        """Why the state could not be written, or None."""
        folder = self._run / "checkpoints" / f"step-{state.step:08}"
        temporary = folder.with_name(f".{folder.name}.partial")
        if self._told((folder / "state.json").exists()):
            return None
        if failure := self._told(_tried(lambda: _made_anew(temporary)) if self._layout.first else None):
            return str(failure)
        digests: dict[str, str] = {}
        failure = _tried(lambda: digests.update(_written(temporary, arrays, parts)))
        reports = self._gathered((failure, digests, parts))
        if self._layout.first:
            failure = next((report[0] for report in reports if report[0]), None)
            failure = failure or _tried(lambda: _finished(temporary, folder, state, reports))
            if failure:
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                self._forget()
        failure = self._told(failure)
        return None if failure is None else str(failure)

    def _told(self, value: Any) -> Any:
        """What the first process says."""
        if self._group is None:
            return value
        found = [value]
        dist.broadcast_object_list(found, group=self._group, group_src=0)
        return found[0]

    def _gathered(self, value: Any) -> list[Any]:
        """What every process says, for the first."""
        if self._group is None:
            return [value]
        found = [None] * dist.get_world_size(self._group) if self._layout.first else None
        dist.gather_object(value, found, group=self._group, group_dst=0)
        return found or []

    def _forget(self) -> None:
        for partial in (self._run / "checkpoints").glob(
            ".step-*.partial"
        ):  # of a process that was killed while writing
            shutil.rmtree(partial, ignore_errors=True)
        for old in states(self._run)[self._keep :]:
            if int(old.name.removeprefix("step-")) not in self._kept:
                (old / "state.json").unlink()
                shutil.rmtree(old, ignore_errors=True)


def _tried(work: Callable[[], None]) -> str | None:
    try:
        work()
    except OSError as error:
        return str(error)
    return None


def _made_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed while writing
    folder.mkdir(parents=True)


def _written(folder: Path, arrays: dict[str, np.ndarray], parts: dict[str, Part]) -> dict[str, str]:
    """Write this process's file; its name and SHA-256."""
    if not arrays:
        return {}
    path = folder / next(iter(parts.values())).file
    write_tensors(path, arrays)
    flush(path)
    with path.open("rb") as opened:
        return {path.name: hashlib.file_digest(opened, "sha256").hexdigest()}


def _finished(temporary: Path, folder: Path, state: State, reports: list[Any]) -> None:
    """All files are there: write what they hold, and give the folder its name."""
    files: dict[str, str] = {}
    parts: dict[str, list[Part]] = {}
    for _, digests, own in reports:
        files.update(digests)
        for name, part in own.items():
            parts.setdefault(name, []).append(part)
    state = msgspec.structs.replace(state, files=files, parts=parts)
    (temporary / "state.json").write_bytes(msgspec.json.encode(state))
    flush(temporary / "state.json")
    flush(temporary)
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one, which has no state
    temporary.rename(folder)
    flush(folder.parent)


def trained(model: Any) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name, a shared one once."""
    return [(name, p) for name, p in named_parameters(model) if p.requires_grad]


def _place(parameter: Tensor) -> tuple[slice, tuple[int, int] | None]:
    """The rows, and the columns if not all, of a parameter that are here."""
    spans = held(parameter) if isinstance(parameter, DTensor) else whole("", tuple(parameter.shape))
    part = len(spans) == 2 and spans[1] != slice(0, parameter.shape[1])
    return spans[0], (spans[1].start, spans[1].stop) if part else None


def _copied(tensor: Tensor) -> np.ndarray:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    found: np.ndarray = local.to("cpu", torch.float32, copy=True).numpy()
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
    wanted = {
        name: ("tok_embeddings.weight" if is_copy(model, name) else name, parameter)
        for name, parameter in trained(model)
    }
    odd = {source for source, _ in wanted.values()} - names
    if not isinstance(model, Pipeline):  # of which each process knows its own stages alone
        odd |= names - set(wanted)
    if odd:
        raise ConfigError(
            f"{folder}: its weights are not this recipe's model's: {sorted(odd)[0]} is in one and not in the other"
        )
    for source, parameter in wanted.values():
        fill(source, parameter, stored.tensor(WEIGHT + source))
        moments = {
            key: torch.empty_like(parameter) for prefix, key in _MOMENTS.items() if prefix + source in stored.names()
        }
        for prefix, key in _MOMENTS.items():
            if key in moments:
                fill(source, moments[key], stored.tensor(prefix + source))
        if moments:
            optimizer.state[parameter] = {"step": torch.tensor(float(state.updates)), **moments}
