"""Types of the compiled module; see csrc/binding.cpp."""

from array import array
from typing import Any

BLOCK: int

def instruction_sets() -> list[str]: ...
def probe_bandwidth(threads: int) -> float: ...
def probe_flops(threads: int) -> float: ...

class Decoder:
    isa: str
    embedding: memoryview
    def __init__(
        self, layers: int, dim: int, ffn: int, heads: int, kv_heads: int, head_dim: int, vocab: int, eps: float,
        frequencies: array[float], threads: int, blocks: int, isa: str, int8_cache: bool,
    ) -> None: ...  # fmt: skip
    def add(
        self, name: str, format: int, rows: int, columns: int, raw: memoryview, scale: array[float] | None
    ) -> None: ...
    def finish(self) -> None: ...
    def step(self, rows: list[Any]) -> list[Any]: ...
