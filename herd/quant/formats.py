"""Every number format that herd reads: its block of weights in bytes, and its id in a GGUF file.

Block layouts: ggml's `ggml-common.h`.
"""

from typing import NamedTuple

from herd.errors import FormatError
from herd.family import ModelConfig


class NumberFormat(NamedTuple):
    """`block` weights of a row are stored together in `bytes` bytes; `gguf_type` is ggml's id, None where it has none."""

    name: str
    block: int
    bytes: int
    gguf_type: int | None

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return self.bytes * 8 / self.block

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights; FormatError when blocks do not fit it evenly."""
        if columns % self.block:
            raise FormatError(f"a row of {columns} weights cannot be held in {self.name} blocks of {self.block}")
        return columns // self.block * self.bytes


FORMATS: dict[str, NumberFormat] = {
    f.name: f
    for f in (
        NumberFormat("F32", 1, 4, 0),
        NumberFormat("F16", 1, 2, 1),
        NumberFormat("BF16", 1, 2, 30),
        NumberFormat("F8_E4M3", 1, 1, None),
        NumberFormat("Q4_0", 32, 18, 2),
        NumberFormat("Q4_1", 32, 20, 3),
        NumberFormat("Q5_0", 32, 22, 6),
        NumberFormat("Q5_1", 32, 24, 7),
        NumberFormat("Q8_0", 32, 34, 8),
        NumberFormat("Q2_K", 256, 84, 10),
        NumberFormat("Q3_K", 256, 110, 11),
        NumberFormat("Q4_K", 256, 144, 12),
        NumberFormat("Q5_K", 256, 176, 13),
        NumberFormat("Q6_K", 256, 210, 14),
        NumberFormat("IQ4_NL", 32, 18, 20),
        NumberFormat("IQ4_XS", 256, 136, 23),
        NumberFormat("MXFP4", 32, 17, 39),
    )
}
GGUF_TYPES: dict[int, NumberFormat] = {f.gguf_type: f for f in FORMATS.values() if f.gguf_type is not None}
# Formats of llama.cpp that need lookup grids or special kernels; herd names them when it refuses them.
REFUSED_GGUF_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S",
    22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
}  # fmt: skip


def number_format(name: str) -> NumberFormat:
    """The format called `name`; FormatError listing the names otherwise."""
    if name not in FORMATS:
        raise FormatError(f"number format {name!r} is unknown; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def weight_bytes(config: ModelConfig, name: str = "BF16") -> int:
    """Bytes of a model's weights with every matrix in the format called `name` and norms in F32."""
    norms = (2 * config.layers + 1) * config.dim
    return int((config.parameters - norms) * number_format(name).bits / 8) + norms * 4
