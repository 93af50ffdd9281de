"""Files of a real shape with random weights, written a few rows at a time: speed depends on shapes and formats alone.

    python benchmarks/shapes.py llama-3.2-1b Q4_0 1b.gguf

The vocabulary is the default model's, padded to the shape's. Q4_0 and Q4_1 have a head of Q8_0; Q4_K_M is laid out as llama.cpp
lays it out, with a head of Q6_K, and every other layer's values and down projections too.
"""

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from herd.cli.common import open_model
from herd.family import SHAPES, ModelConfig
from herd.quant.formats import number_format
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.convert import convert

FILES = ("Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "F16", "BF16")
# Where a block has its scale and, for formats that have one, its minimum, and by how much a unit of the scale moves a weight.
_SCALES = {
    "Q4_0": ([0], 4.6), "Q4_1": ([0, 2], 4.6), "Q8_0": ([0], 74.0), "Q4_K": ([0, 2], 200.0), "Q6_K": ([208], 1300.0),
}  # fmt: skip


def write(path: Path, shape: str, kind: str) -> None:
    """A GGUF file of `shape` (a name of herd.family) whose matrices are in `kind`, one of FILES."""
    config = SHAPES[shape]
    tensors = {
        name: _norm(dims[0]) if len(dims) == 1 else _matrix(name, dims, _format(name, kind, config))
        for name, dims in config.tensor_shapes().items()
    }
    tokenizer = open_model("smollm2-135m").tokenizer
    convert(Checkpoint(path, "gguf", config, tensors, lambda: tokenizer, name=shape), path, "gguf")


def _format(name: str, kind: str, config: ModelConfig) -> str:
    head = name == "output.weight" or (config.tied and name == "tok_embeddings.weight")
    if kind in ("Q4_0", "Q4_1"):
        return "Q8_0" if head else kind
    if kind != "Q4_K_M":
        return kind
    layer = int(name.split(".")[1]) if name.startswith("layers.") else 0
    more = name.endswith(("wv.weight", "w2.weight")) and layer % 2 == 0
    return "Q6_K" if head or more else "Q4_K"


def _norm(columns: int) -> StoredTensor:
    return StoredTensor.of(np.ones(columns, np.float32))


def _matrix(name: str, shape: tuple[int, ...], fmt: str) -> StoredTensor:
    """Rows whose weights are about 1 / sqrt(columns), so that activations stay near 1; the same on every run."""
    columns = shape[1]
    width = number_format(fmt).row_bytes(columns)
    make = _floats(fmt, columns) if fmt in ("F16", "BF16") else _blocks(fmt, columns)

    def some(first: int, last: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([zlib.crc32(name.encode()), first])
        return make(rng, last - first).reshape(last - first, width)

    return StoredTensor(fmt, shape, some)


def _floats(fmt: str, columns: int) -> Callable[[np.random.Generator, int], NDArray[np.uint8]]:
    def make(rng: np.random.Generator, rows: int) -> NDArray[np.uint8]:
        values = (rng.random((rows, columns), np.float32) - np.float32(0.5)) * np.float32(3.46 / columns**0.5)
        bits = (
            values.astype(np.float16).view(np.uint16) if fmt == "F16" else (values.view(np.uint32) >> 16).astype("<u2")
        )
        return bits.view(np.uint8)

    return make


def _blocks(fmt: str, columns: int) -> Callable[[np.random.Generator, int], NDArray[np.uint8]]:
    places, unit = _SCALES[fmt]
    size, block = number_format(fmt).bytes, number_format(fmt).block
    scale = 1 / (unit * columns**0.5)

    def make(rng: np.random.Generator, rows: int) -> NDArray[np.uint8]:
        raw = np.frombuffer(rng.bytes(rows * columns // block * size), np.uint8).reshape(-1, size).copy()
        for place, value in zip(places, (scale, -7.5 * scale if fmt == "Q4_1" else 7.5 * scale), strict=False):
            raw[:, place : place + 2] = np.array([value], np.float16).view(np.uint8)
        return raw

    return make


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("format", choices=FILES)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write(arguments.out, arguments.shape, arguments.format)
