"""The engine's door: a request becomes sequences, or is refused with an error that names what is wrong with it."""

import os
import time
from array import array
from collections.abc import Iterator

from herd.engine.constraint import GuardedConstraint, guarded
from herd.engine.request import Request
from herd.engine.seed import completion_seed
from herd.engine.sequence import Sequence
from herd.errors import ConstraintError, HerdError, RequestError, first_line
from herd.family import ModelConfig


def admit(request: Request, config: ModelConfig, max_length: int, arrivals: Iterator[int]) -> list[Sequence]:
    """The `n` sequences of a request for a model whose sequences may have `max_length` tokens; RequestError otherwise.

    `arrivals` number them. A request without a seed is given one.
    """
    params = request.params
    params.check(config.vocab)
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
    deadline = None if request.deadline is None else time.monotonic() + request.deadline
    first = next(arrivals)
    return [
        Sequence(
            request=request.id or f"request-{first}", index=index, params=params, tokens=prompt.tolist(),
            prompt_length=length, max_length=limit, seed=completion_seed(seed, index), priority=request.priority,
            arrival=next(arrivals) if index else first, deadline=deadline, constraint=_constraint(request, config.vocab),
            score_from=score_from, score_tokens=request.score_tokens, pooling=request.pooling,
        )
        for index in range(params.n)
    ]  # fmt: skip


def _prompt(request: Request, config: ModelConfig, max_length: int) -> "array[int]":
    try:
        prompt = array("i", request.prompt)
    except (TypeError, OverflowError) as error:
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
        if not 0 <= token < vocab:
            raise RequestError(f"score_tokens has {token}; expected tokens from 0 to {vocab - 1}")
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
