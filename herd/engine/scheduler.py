"""Which tokens of which sequences run next: continuous batching with prompts in chunks, preemption by recompute.

Every step has a budget of tokens. Sequences that decode take one each, then running prompts take chunks of what is
left, then waiting ones are admitted. When blocks run out, the sequence that is last in line gives its blocks back and
waits; its tokens are computed anew later.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from herd.engine.backend import Row, RowResult, Sampling, StepPlan
from herd.engine.cache import BlockCache
from herd.engine.request import Constraint, SamplingParams, TokenLogprob


@dataclass(eq=False)
class Sequence:
    """One completion of one request. `tokens` are prompt and reply; the first `computed` are in the cache."""

    request: str
    index: int
    params: SamplingParams
    tokens: list[int]
    prompt_length: int
    max_length: int
    seed: int
    order: tuple[int, int]  # priority and arrival; the smallest runs first
    deadline: float | None = None
    constraint: Constraint | None = None
    computed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    scores: list[TokenLogprob] = field(default_factory=list)
    finished: bool = False

    @property
    def wants_scores(self) -> bool:
        """Whether the prompt's own tokens are to be scored."""
        return self.params.echo and self.params.logprobs is not None

    @property
    def reply_length(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length


class Scheduler:
    """Makes plans and takes their results. It knows nothing of text, threads or hardware."""

    def __init__(
        self,
        cache: BlockCache,
        *,
        max_sequences: int = 64,
        step_tokens: int = 512,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = cache
        self.max_sequences, self.step_tokens, self._clock = max_sequences, step_tokens, clock
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._planned: list[tuple[Sequence, Row]] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line."""
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda s: s.order)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever it was doing; its blocks are free at once."""
        sequence.finished = True
        for line in (self.waiting, self.running):
            if sequence in line:
                line.remove(sequence)
        self._free(sequence)

    def expired(self) -> Iterator[Sequence]:
        """Sequences whose deadline has passed."""
        now = self._clock()
        for sequence in [*self.running, *self.waiting]:
            if sequence.deadline is not None and now >= sequence.deadline:
                yield sequence

    def plan(self) -> StepPlan:
        """The next step; without rows when there is nothing to do."""
        self._planned = []
        budget = self.step_tokens
        self.running.sort(key=lambda s: (len(s.tokens) - s.computed > 1, s.order))
        for sequence in list(self.running):
            if budget <= 0:
                break
            if sequence in self.running:  # it may have given way to one before it
                budget -= self._plan_one(sequence, budget)
        while self.waiting and budget > 0 and len(self.running) < self.max_sequences:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            self.waiting.pop(0)
            self.running.append(sequence)
            budget -= self._plan_one(sequence, budget)
        return StepPlan([row for _, row in self._planned])

    def commit(self, results: list[RowResult]) -> list[tuple[Sequence, RowResult]]:
        """Take the results of the last plan; returns those of sequences that are still wanted and have news."""
        news = []
        for (sequence, row), result in zip(self._planned, results, strict=True):
            if sequence.finished:
                continue
            sequence.computed = row.start + len(row.tokens)
            self._publish(sequence)
            if result.scores:
                sequence.scores += result.scores
            if result.token is not None:
                sequence.tokens.append(result.token)
                news.append((sequence, result))
        self._planned = []
        return news

    def _plan_one(self, sequence: Sequence, budget: int) -> int:
        """Plan up to `budget` tokens of a running sequence; returns how many."""
        count = min(len(sequence.tokens) - sequence.computed, budget)
        if not self._make_room(sequence, sequence.computed + count):
            return 0
        start, stop = sequence.computed, sequence.computed + count
        row = Row(sequence.tokens[start:stop], start, list(sequence.blocks))
        if stop == len(sequence.tokens):
            row.sampling = self._sampling(sequence)
        if sequence.wants_scores and start < sequence.prompt_length - 1 and len(sequence.scores) <= start:
            row.targets = sequence.tokens[start + 1 : min(stop + 1, sequence.prompt_length)]
            row.target_top = sequence.params.logprobs or 0
        self._planned.append((sequence, row))
        return count

    def _sampling(self, sequence: Sequence) -> Sampling:
        params = sequence.params
        penalized = params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
        return Sampling(
            params,
            sequence.seed,
            sequence.reply_length,
            list(sequence.tokens) if penalized else (),
            sequence.prompt_length,
            None if sequence.constraint is None else sequence.constraint.mask,
        )

    def _make_room(self, sequence: Sequence, length: int) -> bool:
        """Blocks for `length` positions, taken from those last in line if need be; False if it gave way itself."""
        while self.cache.blocks_for(length) - len(sequence.blocks) > self.cache.free:
            victim = max(self.running, key=lambda s: s.order)
            self._preempt(victim)
            if victim is sequence:
                return False
        while len(sequence.blocks) < self.cache.blocks_for(length):
            sequence.blocks.append(self.cache.allocate())
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.preemptions += 1
        self._planned = [(s, row) for s, row in self._planned if s is not victim]
        self.running.remove(victim)
        self._free(victim)
        self.add(victim)

    def _free(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks, sequence.digests, sequence.computed = [], [], 0

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence the blocks that others have computed already; False when it had better wait.

        It waits for room for all its tokens, and for a running sequence that is just computing the block it needs next.
        """
        size, cache = self.cache.size, self.cache
        shared: list[int] = []
        digests: list[bytes] = []
        digest = b""
        if not (sequence.wants_scores and len(sequence.scores) < sequence.prompt_length - 1):
            for i in range((len(sequence.tokens) - 1) // size):
                digest = cache.digest(digest, sequence.tokens[i * size : (i + 1) * size])
                block = cache.find(digest)
                if block is None:
                    if self._being_computed(i, sequence):
                        return False
                    break
                shared.append(block)
                digests.append(digest)
        for block in shared:
            cache.use(block)
        if cache.blocks_for(len(sequence.tokens)) - len(shared) > cache.free and (self.running or shared):
            cache.release(shared)
            return False
        sequence.blocks, sequence.digests = shared, digests
        sequence.computed = len(shared) * size
        if sequence.reply_length == 0:
            sequence.cached = sequence.computed
        return True

    def _being_computed(self, block: int, sequence: Sequence) -> bool:
        """Whether a running prompt has the same tokens through `block` and has not got there yet."""
        stop = (block + 1) * self.cache.size
        return any(
            other.computed < stop <= len(other.tokens) and other.tokens[:stop] == sequence.tokens[:stop]
            for other in self.running
        )

    def _publish(self, sequence: Sequence) -> None:
        """Name the blocks that have become full."""
        size = self.cache.size
        while (len(sequence.digests) + 1) * size <= sequence.computed:
            i = len(sequence.digests)
            before = sequence.digests[-1] if sequence.digests else b""
            sequence.digests.append(self.cache.digest(before, sequence.tokens[i * size : (i + 1) * size]))
            self.cache.publish(sequence.blocks[i], sequence.digests[i])
