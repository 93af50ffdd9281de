"""What a caller asks for and what it gets: sampling parameters, requests, events, completions."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

from herd.errors import HerdError, RequestError, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error", "content_filter"]
"""Why a reply ended; `content_filter` is a guard's, never the engine's."""
Pooling = Literal["mean", "last"]
"""Which of a prompt's final hidden states an embedding is: the mean of all, or that of the last token."""


class SamplingParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tokens are chosen and when to stop. `temperature=0` is greedy; `max_tokens=None` is up to the context.

    `top_k=0`, `top_p=1` and `min_p=0` filter nothing. `repetition_penalty` divides (or multiplies, below zero) the
    logits of tokens in prompt and reply (arXiv 1909.05858); presence and frequency penalties are subtracted for tokens
    of the reply, as OpenAI documents them. `logprobs` is how many alternatives to report beside each token, None for
    no log-probabilities. `echo` returns the prompt first. `seed` makes a sample repeatable whatever it runs beside.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int | None = None
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    show_special: bool = False

    def check(self, vocab: int) -> None:
        """RequestError naming the first parameter of a wrong type or out of range."""
        try:
            msgspec.convert(msgspec.structs.asdict(self), SamplingParams)
        except (msgspec.ValidationError, UnicodeError) as error:
            raise RequestError(f"sampling parameters: {first_line(error)}") from error
        ranges: tuple[tuple[str, float, float], ...] = (
            ("temperature", 0, 100), ("top_p", 0, 1), ("min_p", 0, 1), ("top_k", 0, 2**31),
            ("repetition_penalty", 0.01, 100), ("presence_penalty", -100, 100), ("frequency_penalty", -100, 100),
            ("n", 1, 1024),
        )  # fmt: skip
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(f"{name} is {value!r:.60}; expected a number from {low:g} to {high:g}", param=name)
        if self.top_p == 0:
            raise RequestError("top_p is 0; expected a number above 0 and up to 1", param="top_p")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise RequestError(f"max_tokens is {self.max_tokens}; expected 0 or more", param="max_tokens")
        if self.logprobs is not None and not 0 <= self.logprobs <= vocab:
            raise RequestError(f"logprobs is {self.logprobs}; expected 0 to the vocabulary's {vocab}", param="logprobs")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise RequestError(f"seed is {self.seed}; expected a 64-bit number", param="seed")
        for token, bias in self.logit_bias.items():
            if not 0 <= token < vocab or not math.isfinite(bias):
                raise RequestError(
                    f"logit_bias for token {token} is {bias}; expected a token below {vocab}, a finite bias",
                    param="logit_bias",
                )
        if any(not text for text in self.stop):
            raise RequestError("stop has an empty string; expected text that ends the reply", param="stop")


class Constraint(Protocol):
    """Which tokens may come next, for replies held to a grammar."""

    def mask(self) -> "NDArray[np.uint32]":
        """One bit a token, 32 tokens a word, lowest bit first."""
        ...

    def advance(self, token: int) -> None:
        """Take a chosen token into account."""
        ...


@runtime_checkable
class Walkable(Constraint, Protocol):
    """A constraint that can look ahead, so that replies held to it can be guessed at."""

    def forced(self) -> Sequence[int]:
        """Tokens that probably come next because nothing else is allowed; none where there is a choice."""
        ...

    def walk(self, guess: Sequence[int]) -> "Callable[[], NDArray[np.uint32]]":
        """What gives the mask, perhaps after a wait, and one more after each token of `guess`, [up to 1 + guess, words]: as
        many as are allowed one after another. The state stays.
        """
        ...


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens to continue. A lower `priority` runs first; `deadline` is in seconds from submission.

    `constraint` makes the grammar state of one completion; it is called once for each of the `n`. `id` is for the caller:
    it comes back in events, and names what `Engine.cancel` ends.

    `score_from` asks for the log-probabilities of the prompt's tokens from that index on (1 or more), each given all
    before it; what is before is shared with other requests like any prompt. With `max_tokens=0` nothing is generated.
    `score_tokens` asks for the log-probabilities of these tokens as the one after the prompt; nothing is generated.
    `pooling` asks for the prompt's embedding; nothing is generated. `herd.engine.embed` makes those of many texts.
    """

    prompt: Sequence[int]
    params: SamplingParams = SamplingParams()
    priority: int = 0
    deadline: float | None = None
    constraint: Any = None
    id: str = ""
    score_from: int | None = None
    score_tokens: tuple[int, ...] = ()
    pooling: Pooling | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-probability of a token under the model's own distribution, and the most likely alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a completion: `prompt`, of which `cached` had been computed before the request came, and reply.

    The completions of one request name the same prompt: add them up with `of_request`.
    """

    prompt: int
    completion: int
    cached: int

    @staticmethod
    def of_request(completions: "Iterable[Usage]") -> "Usage":
        """The usage of a request's `n` completions together: their prompt, which was computed once, counts once."""
        parts = list(completions)
        return Usage(parts[0].prompt, sum(part.completion for part in parts), parts[0].cached)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The next part of completion `index` of a request; the last one has a `finish_reason` and the `usage`.

    `prompt_logprobs` are those of `score_from`, or of the whole prompt (None for its first token) with `echo` and
    `logprobs`; `token_logprobs` those of `score_tokens`, in their order. `embedding`, [dim], is what `pooling` asked for, as it
    is: not normalized.
    """

    request: str
    index: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    token_logprobs: tuple[float, ...] = ()
    embedding: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """Completion `index` of `request`, whole; fields as in `Event`. One that failed has the finish reason "error", its
    `error`, and what there was before it.
    """

    request: Request
    index: int = 0
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    token_logprobs: tuple[float, ...] = ()
    embedding: tuple[float, ...] = ()
    finish_reason: FinishReason
    usage: Usage = Usage(0, 0, 0)
    error: HerdError | None = None
