"""A request becomes sequences, one a completion, or is refused with an error that names what is wrong with it.

A sequence is what the scheduler sees: tokens, what of them is computed, what is wanted of it. It waits in a `Line`.
"""

import heapq
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import NoneType

from herd.engine.constraint import GuardedConstraint, guarded
from herd.engine.request import Constraint, Pooling, Request, SamplingParams, TokenLogprob
from herd.engine.seed import completion_seed
from herd.errors import ConstraintError, HerdError, RequestError, first_line
from herd.family import ModelConfig


@dataclass(eq=False, slots=True)
class Sequence:
    """One completion of one request. `tokens` are prompt and reply; the first `computed` are in the cache.

    `score_from` is the index of the first prompt token to score, `score_tokens` are tokens whose log-probabilities after
    the prompt are wanted, `pooling` says of which tokens the states are; none is sampled for.
    """

    request: str
    index: int
    params: SamplingParams
    tokens: list[int]
    prompt_length: int
    max_length: int
    seed: int
    priority: int
    arrival: int  # unique; of equal priorities the smallest runs first
    deadline: float | None = None
    constraint: Constraint | None = None
    score_from: int | None = None
    score_tokens: tuple[int, ...] = ()
    pooling: Pooling | None = None
    state: list[float] | None = None  # the sum so far of what is pooled
    computed: int = 0
    cached: int | None = None  # of the prompt, found when it was admitted first
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  # names of full blocks, as far as they were needed
    published: int = 0  # of `blocks`, those that others may find
    kept: int = 0  # groups of `blocks` that are on disk, where prompts are kept there
    scores: list[TokenLogprob] = field(default_factory=list)
    patient: bool = False  # nobody reads its tokens as they come
    running: bool = False
    finished: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """The smallest runs first."""
        return self.priority, self.arrival

    @property
    def reply_length(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def generates(self) -> bool:
        """Whether tokens are to be sampled."""
        return self.max_length > self.prompt_length

    @property
    def end(self) -> int:
        """How many tokens are to be computed before something can be said: the last is not when only scores are wanted."""
        whole = self.generates or self.score_tokens or self.pooling
        return len(self.tokens) if whole else self.prompt_length - 1

    @property
    def found(self) -> int:
        """How many tokens may be taken as others computed them: not what is still scored or pooled, nor the last."""
        if self.pooling == "mean":
            return 0
        unscored = self.unscored
        return self.end - 1 if unscored is None else min(unscored, self.end - 1)

    @property
    def unscored(self) -> int | None:
        """The first position whose next token is still to be scored; None when none is."""
        if self.score_from is None:
            return None
        position = self.score_from - 1 + len(self.scores)
        return position if position < self.prompt_length - 1 else None


class Line:
    """Sequences that wait, for their turn or for their deadline: who has the smallest key goes first. A heap, so that a hundred
    thousand may wait; a sequence that is finished while it waits is passed over.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._gone = 0  # finished ones that still have a place

    def __len__(self) -> int:
        return len(self._heap) - self._gone

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for *_, sequence in self._heap if not sequence.finished)

    def push(self, key: float, sequence: Sequence) -> None:
        """Put one in line; equal keys go in the order of arrival."""
        heapq.heappush(self._heap, (key, sequence.arrival, sequence))

    def first(self) -> tuple[float, Sequence] | None:
        """The smallest key and whose it is; None when nobody waits."""
        while self._heap and self._heap[0][2].finished:
            heapq.heappop(self._heap)
            self._gone -= 1
        return (self._heap[0][0], self._heap[0][2]) if self._heap else None

    def pop(self) -> None:
        """Take out who is `first`."""
        heapq.heappop(self._heap)

    def leave(self) -> None:
        """One in line has finished. Places of the finished are given back when they are half of all."""
        self._gone += 1
        if self._gone > 32 and self._gone * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].finished]
            heapq.heapify(self._heap)
            self._gone = 0


# What C++ takes as it is: a wrong type there would stop the engine for everybody.
_TYPES: dict[str, tuple[type, ...]] = {
    "priority": (int,), "deadline": (int, float, NoneType), "id": (str,), "score_from": (int, NoneType),
    "score_tokens": (tuple, list), "pooling": (str, NoneType),
}  # fmt: skip


def admit(request: Request, config: ModelConfig, max_length: int, arrivals: Iterator[int]) -> list[Sequence]:
    """The `n` sequences of a request for a model whose sequences may have `max_length` tokens; RequestError otherwise.

    `arrivals` number them. A request without a seed is given one.
    """
    params = request.params
    params.check(config.vocab)
    for name, kinds in _TYPES.items():
        if not isinstance(value := getattr(request, name), kinds):
            raise RequestError(f"{name} is {value!r:.60}, of a wrong type", param=name)
    prompt = _prompt(request, config, max_length)
    length = len(prompt)
    _check_scores(request, length, config.vocab)
    if request.deadline is not None and not request.deadline > 0:
        raise RequestError(f"deadline is {request.deadline}; expected seconds above 0", param="deadline")
    if request.score_tokens or request.pooling:
        limit = length
    else:
        limit = max_length if params.max_tokens is None else length + params.max_tokens
    score_from = request.score_from
    if score_from is None and params.echo and params.logprobs is not None and length > 1:
        score_from = 1
    seed = int.from_bytes(os.urandom(8), "little") >> 1 if params.seed is None else params.seed
    deadline = None if request.deadline is None else time.monotonic() + min(request.deadline, 1e12)
    first = next(arrivals)
    return [
        Sequence(
            request=request.id or f"request-{first}", index=index, params=params, tokens=prompt.tolist(),
            prompt_length=length, max_length=limit, seed=completion_seed(seed, index), priority=request.priority,
            arrival=next(arrivals) if index else first, deadline=deadline, constraint=_constraint(request, config.vocab),
            score_from=score_from, score_tokens=tuple(request.score_tokens), pooling=request.pooling,
        )
        for index in range(params.n)
    ]  # fmt: skip


def _prompt(request: Request, config: ModelConfig, max_length: int) -> "array[int]":
    try:
        prompt = array("i", request.prompt)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"prompt: {first_line(error)}; expected token numbers", param="prompt") from error
    if not prompt:
        raise RequestError("prompt is empty; expected at least one token", param="prompt")
    for token in (min(prompt), max(prompt)):
        if not 0 <= token < config.vocab:
            raise RequestError(
                f"prompt has token {token}; expected tokens from 0 to {config.vocab - 1}", param="prompt"
            )
    wanted = request.params.max_tokens
    if wanted is None:
        wanted = 0 if request.score_tokens or request.pooling else 1
    if len(prompt) + wanted > max_length:
        limit = "the model's context" if max_length == config.context else "the cache"
        raise RequestError(
            f"the prompt's {len(prompt):,} tokens and {wanted:,} to generate exceed {limit} of {max_length:,} tokens; "
            "shorten the prompt or ask for fewer",
            param="prompt",
            code="context_length_exceeded",
        )
    return prompt


def _check_scores(request: Request, length: int, vocab: int) -> None:
    first, tokens, params = request.score_from, request.score_tokens, request.params
    if first is not None and not 1 <= first < length:
        raise RequestError(f"score_from is {first}; expected 1 to {length - 1}, an index in the prompt")
    if first is not None and params.echo:
        raise RequestError("score_from and echo are both given; echo with logprobs scores the whole prompt")
    for token in tokens:
        if not isinstance(token, int) or not 0 <= token < vocab:
            raise RequestError(f"score_tokens has {token!r:.60}; expected tokens from 0 to {vocab - 1}")
    if request.pooling not in (None, "mean", "last"):
        raise RequestError(f"pooling is {request.pooling!r}; expected mean or last", param="pooling")
    if request.pooling and (tokens or first is not None or params.echo):
        raise RequestError("pooling goes with neither scores nor echo", param="pooling")
    if (tokens or request.pooling) and (params.max_tokens or params.n != 1 or request.constraint is not None):
        raise RequestError(
            "score_tokens and pooling sample nothing; they go with neither max_tokens, n nor a constraint"
        )


def _constraint(request: Request, vocab: int) -> GuardedConstraint | None:
    """The state of one completion's constraint."""
    if request.constraint is None:
        return None
    try:
        return guarded(request.constraint(), vocab)
    except HerdError:
        raise
    except Exception as error:
        raise ConstraintError(f"the constraint failed: {type(error).__name__}: {first_line(error)}") from error
