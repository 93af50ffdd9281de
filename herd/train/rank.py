"""One process of a run that failures are tried on (`herd plan faults --replay`): it trains as `herd train` does, and at SIGUSR1 a bit of
a weight flips, as a cosmic ray would flip it: nothing is said, and training goes on.

    python -m herd.train.rank PROCESSES OUT RECIPE [KEY=VALUE ...]       # PROCESSES above 1: as torchrun would start it
"""

import gc
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from herd.errors import HerdError
from herd.train.layout import meet
from herd.train.recipe import resolve
from herd.train.run import train
from herd.weights.open import open_checkpoint

_HIGHEST = 1 << 30  # of the exponent: a weight near 0.02 becomes one near 10^36


def flip_bit(parameters: list[torch.Tensor]) -> None:
    """Flip the exponent's highest bit in the middle of the last matrix that this process holds a part of."""
    held = [p.to_local() if isinstance(p, DTensor) else p for p in parameters if p.dim() > 1]
    weights = [p for p in held if p.numel()][-1].detach().view(torch.int32).flatten()
    weights[weights.numel() // 2] ^= _HIGHEST


def main(processes: int, out: Path, recipe: Path, changes: dict[str, str]) -> None:
    """Train until it is over or SIGTERM comes."""
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    def strike(*_: Any) -> None:
        for found in gc.get_objects():
            if isinstance(found, torch.optim.AdamW):
                flip_bit([p for group in found.param_groups for p in group["params"]])

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, strike)
    torch.set_num_threads(1)
    if processes > 1:
        meet()
    train(
        resolve(recipe, changes),
        out,
        lambda name: open_checkpoint(Path(name)),
        lambda _: None,
        lambda: stopping,
        sys.argv,
    )


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), dict(word.split("=", 1) for word in sys.argv[4:]))
    except HerdError as error:
        print(f"herd: {error}", file=sys.stderr)
        sys.exit(2)
