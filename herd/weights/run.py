"""A training run as a checkpoint: its newest state, written by `herd.train.checkpoint`, tokenizer and template beside it.

    RUN/model/                          config.json, tokenizer.json and what else is beside weights
    RUN/checkpoints/step-00000100/      state.json and one file of tensors a process

A process writes what it holds: whole tensors, rows or columns of them; `state.json` says which, and each file's SHA-256.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from herd.errors import FormatError
from herd.weights.checkpoint import Checkpoint, StoredTensor, check_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHT = "weight:"
"""What names of weights begin with in files of tensors, beside the optimizer's."""


class Part(msgspec.Struct, frozen=True):
    """Where rows `first` to `last` of a tensor, all columns or those from `columns[0]` to `columns[1]`, lie: its name in file `file`."""

    file: str
    first: int
    last: int
    columns: tuple[int, int] | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What `state.json` says. `updates` counts the steps that the optimizer took,
    `base` is the checkpoint that adapters belong to; `scale` is theirs."""

    step: int
    updates: int
    tokens: int
    loader: dict[str, Any]
    parts: dict[str, list[Part]]
    files: dict[str, str]
    base: str | None = None
    scale: float = 0.0


def states(run: Path) -> list[Path]:
    """Folders of states that were written whole, newest first."""
    return sorted((p.parent for p in run.glob("checkpoints/step-*/state.json")), reverse=True)


def read_state(folder: Path) -> State:
    """The state in a folder; FormatError when it is damaged."""
    try:
        state = msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError) as error:
        raise FormatError(f"{folder}/state.json: not a training state ({error})") from error
    return state


def verify(folder: Path, state: State) -> None:
    """FormatError naming the first file whose bytes are not those that were written."""
    for name, wanted in state.files.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise FormatError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if found != wanted:
            raise FormatError(f"{folder / name}: damaged: its SHA-256 is not the one that was written")


class Stored:
    """The tensors of a state, put together from the files of all processes and read when used."""

    def __init__(self, folder: Path, state: State) -> None:
        from herd.weights.hf import SafetensorsFile

        self._parts = state.parts
        self._files = {name: SafetensorsFile(folder / name) for name in state.files}

    def names(self) -> list[str]:
        """All names: `weight:layers.0.attention.wq.weight`, ..."""
        return list(self._parts)

    def tensor(self, name: str) -> StoredTensor:
        """One tensor."""
        parts = sorted(self._parts[name], key=lambda part: part.first)
        stored = [self._files[part.file].tensors[name] for part in parts]
        if len(parts) == 1 and parts[0].first == 0 and parts[0].columns is None:
            return stored[0]
        return _joined(name, parts, stored)


def _joined(name: str, parts: list[Part], stored: list[StoredTensor]) -> StoredTensor:
    """One tensor of several parts; FormatError where they leave a hole."""
    import numpy as np

    rows = max(part.last for part in parts)
    if len(stored[0].shape) == 1:
        _check_whole(name, [(part.first, part.last) for part in parts], rows)
        return StoredTensor.of(np.concatenate([one.float32() for one in stored]))
    ranges = [part.columns or (0, one.shape[1]) for part, one in zip(parts, stored, strict=True)]
    columns = max(last for _, last in ranges)
    for span in set(ranges):
        _check_whole(name, [(p.first, p.last) for p, r in zip(parts, ranges, strict=True) if r == span], rows)
    _check_whole(name, sorted(set(ranges)), columns)

    def read(first: int, last: int) -> "NDArray[np.uint8]":
        found = np.empty((last - first, 4 * columns), np.uint8)
        for part, (left, right), one in zip(parts, ranges, stored, strict=True):
            begin, end = max(first, part.first), min(last, part.last)
            if begin < end:
                found[begin - first : end - first, 4 * left : 4 * right] = one.rows(
                    begin - part.first, end - part.first
                )
        return found

    return StoredTensor("F32", (rows, columns), read)


def _check_whole(name: str, spans: list[tuple[int, int]], size: int) -> None:
    ends = [0, *(last for _, last in spans)]
    if [first for first, _ in spans] != ends[:-1] or ends[-1] != size:
        raise FormatError(f"{name}: its parts do not fit together")


def open_run(path: Path) -> Checkpoint:
    """The newest state of a run, or the one in the folder of a state, adapters merged into their base."""
    from herd.weights.open import open_checkpoint

    found = [path] if (path / "state.json").exists() else states(path)
    run = path.parent.parent if found == [path] else path
    if not found:
        raise FormatError(f"{run}: this training run has no checkpoint yet")
    state = read_state(found[0])
    stored = Stored(found[0], state)
    tensors = {name.removeprefix(WEIGHT): stored.tensor(name) for name in stored.names() if name.startswith(WEIGHT)}
    if state.base is not None:
        from herd.weights.adapter import Adapter, merged

        pairs = {
            name.removesuffix(".lora_a") + ".weight": (a.float32(), tensors[name.removesuffix("a") + "b"].float32())
            for name, a in tensors.items()
            if name.endswith(".lora_a")
        }
        base = open_checkpoint(Path(state.base))
        opened = merged(base, Adapter(pairs, state.scale))
        opened.path, opened.name = path, path.name
        return opened
    from herd.weights.dialog_files import read_dialog
    from herd.weights.files import read_json
    from herd.weights.hf_config import config_from_hf
    from herd.weights.sidecars import read_tokenizer

    folder = run / "model"
    config = config_from_hf(read_json(folder / "config.json"), str(folder / "config.json"))
    return Checkpoint(
        path, "run", config, check_tensors(config, tensors, str(found[0])), lambda: read_tokenizer(folder),
        name=path.name, files=tuple(found[0] / name for name in state.files), **read_dialog(folder),
    )  # fmt: skip
