"""The contract between scheduler and hardware: one `step` computes a plan's tokens and samples.

A backend owns the weights and the key-value cache, cut into blocks of `block_size` positions. Speed is its business:
masks, sampling and cache writes happen inside `step`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from herd.engine.request import SamplingParams, TokenLogprob
from herd.errors import RequestError
from herd.family import ModelConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from herd.weights.checkpoint import StoredTensor


@dataclass(slots=True)
class Sampling:
    """Everything that chooses one token: `seed` and `position` determine the random number, nothing else does."""

    params: SamplingParams
    seed: int
    position: int  # how many tokens the completion has already
    history: Sequence[int] = ()  # prompt and reply; filled only when penalties need it
    prompt_length: int = 0
    # One bit for each token that is allowed, [words], or [up to 1 + draft, words] for guesses too; calling it may wait.
    mask: "Callable[[], NDArray[np.uint32]] | None" = None


@dataclass(slots=True)
class Row:
    """One sequence's part of a step: compute `tokens` at positions `start`... with keys and values in `blocks`."""

    tokens: list[int]
    start: int
    blocks: list[int]
    sampling: Sampling | None = None  # None while a prompt is not computed to its end
    targets: list[int] | None = None  # score these next tokens, one for each of `tokens` from `first_target` on
    first_target: int = 0
    target_top: int = 0  # alternatives to report beside each score
    score_tokens: tuple[int, ...] = ()  # log-probabilities of these as the token after the last
    state_from: int | None = None  # the sum of the states of `tokens` from this one on is wanted
    draft: int = 0  # so many of the last of `tokens` are guesses; only for a backend that `verifies_drafts`


@dataclass(slots=True)
class StepPlan:
    """The rows that one step computes."""

    rows: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class RowResult:
    """A row's sampled token and the log-probabilities that were asked for.

    `state` is the sum, [dim], of the states that `state_from` asked for: what the output is multiplied with, after the last norm.
    `accepted` are the tokens that were chosen after right guesses, in order.
    `finite` is False, and nothing else counts, when logits that were needed hold a NaN or an infinity.
    """

    token: int | None = None
    logprob: TokenLogprob | None = None
    scores: list[TokenLogprob] | None = None
    token_logprobs: tuple[float, ...] = ()
    state: list[float] | None = None
    finite: bool = True
    accepted: list[tuple[int, TokenLogprob | None]] = field(default_factory=list)


class Backend(Protocol):
    """What the engine needs of an implementation; `herd.engine.backends` has them."""

    config: ModelConfig
    block_size: int
    block_count: int
    name: str
    verifies_drafts: bool

    def step(self, plan: StepPlan) -> list[RowResult]:
        """Compute a plan; results in the order of its rows. Results do not depend on what else is in the plan."""
        ...

    def update(self, tensors: "Mapping[str, StoredTensor]") -> None:
        """Put tensors in place of the model's own; names and shapes have been checked. Memory does not grow with calls.

        ConfigError, and no change, where the backend cannot.
        """
        ...

    def settle(self) -> None:
        """Do what loading put off, so that the steps after it take their usual time."""
        ...

    def close(self) -> None:
        """Free memory, threads and processes."""
        ...


def check_tensors(config: ModelConfig, tensors: "Mapping[str, StoredTensor]") -> None:
    """RequestError naming the first of `tensors` that a model does not have, or not in this shape."""
    shapes = config.tensor_shapes()
    for name, tensor in tensors.items():
        if name not in shapes:
            raise RequestError(f"the model has no tensor {name}; nothing was changed")
        if not hasattr(tensor, "row_count"):
            raise RequestError(
                f"tensor {name} is a {type(tensor).__name__}; expected StoredTensor.of(array); nothing was changed"
            )
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise RequestError(
                f"tensor {name} is {list(tensor.shape)}; expected {list(shapes[name])}; nothing was changed"
            )
