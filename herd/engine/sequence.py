"""One completion as the scheduler sees it: tokens, what of them is computed, and what is wanted of it."""

from dataclasses import dataclass, field

from herd.engine.request import Constraint, Pooling, SamplingParams, TokenLogprob


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
    scores: list[TokenLogprob] = field(default_factory=list)
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
    def unscored(self) -> int | None:
        """The first position whose next token is still to be scored; None when none is."""
        if self.score_from is None:
            return None
        position = self.score_from - 1 + len(self.scores)
        return position if position < self.prompt_length - 1 else None
