"""The contract between scheduler and hardware: one `step` computes a plan's tokens and samples.

A backend owns the weights and the key-value cache, cut into blocks of `block_size` positions. Speed is its business:
masks, sampling and cache writes happen inside `step`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from herd.engine.request import SamplingParams, TokenLogprob
from herd.family import ModelConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Sampling:
    """Everything that chooses one token: `seed` and `position` determine the random number, nothing else does."""

    params: SamplingParams
    seed: int
    position: int  # how many tokens the completion has already
    history: Sequence[int] = ()  # prompt and reply; filled only when penalties need it
    prompt_length: int = 0
    mask: "Callable[[], NDArray[np.uint32]] | None" = None  # one bit for each token that is allowed; may wait for it


@dataclass(slots=True)
class Row:
    """One sequence's part of a step: compute `tokens` at positions `start`... with keys and values in `blocks`."""

    tokens: list[int]
    start: int
    blocks: list[int]
    sampling: Sampling | None = None  # None while a prompt is not computed to its end
    targets: list[int] | None = None  # score these next tokens, one for each of `tokens` (the last may be missing)
    target_top: int = 0  # alternatives to report beside each score


@dataclass(slots=True)
class StepPlan:
    """The rows that one step computes."""

    rows: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class RowResult:
    """A row's sampled token and the log-probabilities that were asked for."""

    token: int | None = None
    logprob: TokenLogprob | None = None
    scores: list[TokenLogprob] | None = None


class Backend(Protocol):
    """What the engine needs of an implementation; `herd.engine.backends` has them."""

    config: ModelConfig
    block_size: int
    block_count: int
    name: str

    def step(self, plan: StepPlan) -> list[RowResult]:
        """Compute a plan; results in the order of its rows. Results do not depend on what else is in the plan."""
        ...

    def close(self) -> None:
        """Free memory, threads and processes."""
        ...
