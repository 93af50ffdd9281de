"""Log-probabilities of frozen models, a teacher's and a reference's, computed once and kept on the disk by what they were computed from."""

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from herd.atomic import atomic_file
from herd.family import ModelConfig
from herd.model.llama import Transformer
from herd.model.load import from_checkpoint
from herd.train.layout import Layout
from herd.train.objectives import Top, answer_logprobs, narrowed, top_logprobs
from herd.train.packing import Batch, collate
from herd.train.pipeline import Pipeline
from herd.train.samples import Corpus
from herd.train.trainer import in_order
from herd.weights.checkpoint import Checkpoint

Arrays = list[NDArray[np.generic]]


class Known:
    """A folder of arrays by the hash of what they were computed from; None keeps nothing. `computed` counts what was not there.

    A file is the SHA-256 of what follows, then the arrays as numpy's npz. One that is not what it was when written is computed again.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.computed = folder, 0

    def get(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays of `key`, read or computed."""
        found = self.find(key)
        return self.keep(key, compute()) if found is None else found

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / key[:2] / f"{key}.npz"

    def find(self, key: str) -> Arrays | None:
        """The arrays of `key` where they are on the disk, whole."""
        path = self._path(key)
        return _read(path) if path is not None and path.exists() else None

    def keep(self, key: str, arrays: Arrays, *, write: bool = True) -> Arrays:
        """Write what was computed; the arrays."""
        self.computed += 1
        path = self._path(key) if write else None
        if path is not None:
            file = io.BytesIO()
            np.savez(file, *arrays)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                temporary.write_bytes(hashlib.sha256(file.getbuffer()).digest() + file.getbuffer())
        return arrays


def _read(path: Path) -> Arrays | None:
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    with np.load(io.BytesIO(data[32:]), allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files]


def teacher_logprobs(teacher: Checkpoint, k: int, temperature: float, known: Known) -> Callable[[Batch], Top]:
    """What a teacher says of a batch's targets that count, in their order. It is loaded when something is not known."""
    identity = hashlib.sha256(repr((teacher.config, k, temperature)).encode())
    for name, stored in teacher.tensors.items():
        identity.update(repr((name, stored.format, stored.shape)).encode())
        identity.update(stored.raw())

    @cache
    def model() -> Transformer:
        return from_checkpoint(teacher.config, teacher.tensors, torch.float32).requires_grad_(False)

    def top(batch: Batch) -> Top:
        kept = batch.weights.flatten().nonzero()[:, 0]

        def compute() -> Arrays:
            found: Top = model()(
                batch.tokens, mask=batch.documents, head=lambda h, w: top_logprobs(narrowed(h)[kept], w, k, temperature)
            )
            return [found.ids.numpy().astype(np.int32), found.logprobs.numpy()]

        digest = identity.copy()
        digest.update(repr((batch.documents.lengths, batch.tokens.shape, torch.is_autocast_enabled("cpu"))).encode())
        digest.update(batch.tokens.numpy().tobytes() + kept.numpy().tobytes())
        ids, logprobs = known.get(digest.hexdigest(), compute)
        return Top(torch.from_numpy(ids).long(), torch.from_numpy(logprobs))

    return top


@torch.no_grad()
def reference_logprobs(
    share: Transformer | Pipeline, layout: Layout, dtype: torch.dtype, start: Checkpoint | None, fresh: tuple[ModelConfig, int],
    corpora: tuple[Sequence[Corpus], Sequence[Corpus]], length: int, known: Known,
) -> Callable[[Batch], Tensor]:  # fmt: skip
    """The log-probability of every answer of the sources and of those to validate with, by the model as it stands: the `start`'s, or a
    fresh one of a shape and seed. All processes ask together.
    """
    every = [*corpora[0], *corpora[1]]

    def identity() -> str:
        digest = hashlib.sha256(repr((fresh, length, layout.mesh is not None and str(dtype))).encode())
        for array in [a for c in every for a in (c.ids, c.offsets, c.mask)]:
            digest.update(np.ascontiguousarray(array).data if array is not None else b"all")
        for name, stored in ({} if start is None else start.tensors).items():
            digest.update(repr((name, stored.format, stored.shape)).encode())
            digest.update(stored.raw())
        return digest.hexdigest()

    def compute() -> Arrays:
        share.eval()
        batches = (collate(every, rows, length) for i, c in enumerate(every) for rows in in_order(c, i, length))
        found = [_answers(share, layout, dtype, batch)[batch.owner >= 0].numpy() for batch in batches]
        layout.reshard(share)
        return [np.concatenate(found)]

    name = layout.told(identity() if layout.first else None)
    found = known.find(name)
    if layout.agreed(found is None):  # all of them compute, or none
        found = known.keep(name, compute(), write=layout.first)
    (flat,) = found or []
    starts = np.concatenate([[0], np.cumsum([len(corpus.offsets) - 1 for corpus in every])])

    def reference(batch: Batch) -> Tensor:
        # validation batches number their sources from 0 again
        shift = 0 if torch.is_grad_enabled() else len(corpora[0])
        values = torch.zeros(len(batch.owner))
        found = [
            flat[starts[piece.source + shift] + d]
            for piece in batch.pieces
            for d in range(*every[piece.source + shift].groups[piece.sample : piece.sample + 2])
        ]
        values[batch.owner >= 0] = torch.tensor(np.array(found, np.float32))
        return values

    return reference


def _answers(share: Transformer | Pipeline, layout: Layout, dtype: torch.dtype, batch: Batch) -> Tensor:
    """The log-probability of each document of a batch, on every process that shares the model."""
    part = layout.part(batch)
    if not isinstance(share, Pipeline):
        return answer_logprobs(share, part)
    _, sums = share.measure(lambda model, one: (torch.zeros(()), {"found": answer_logprobs(model, one)}), part, dtype)
    found: Tensor = sums["found"]  # the last stage's, told to all
    return found
