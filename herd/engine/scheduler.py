"""Which tokens of which sequences run next: continuous batching with prompts in chunks, preemption by recompute.

Every step has a budget of tokens. Sequences that decode take one each, then running prompts take chunks of what is
left, then waiting ones are admitted; beside replies that are read as they come, prompts take less (`balance.py`). When blocks run out, the sequence that is last in line gives its blocks back and
waits; its tokens are computed anew later.
"""

import time
from collections.abc import Callable, Iterator

from herd.engine.backend import Row, RowResult, Sampling, StepPlan
from herd.engine.balance import Balance
from herd.engine.cache import BlockCache
from herd.engine.drafts import Drafter, Wish
from herd.engine.pace import LONGEST
from herd.engine.prefixes import GROUP, PrefixStore
from herd.engine.request import Walkable
from herd.engine.sequence import Line, Sequence


class Scheduler:
    """Makes plans and takes their results. It knows nothing of text, threads or hardware."""

    def __init__(
        self,
        cache: BlockCache,
        *,
        max_sequences: int = 64,
        step_tokens: int = 512,
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
        verifies_drafts: bool = False,
        store: PrefixStore | None = None,
    ) -> None:
        self.cache, self._drafter, self._verifies = cache, drafter, verifies_drafts
        self.store = store
        self._drafted: set[Sequence] = set()  # sequences that the drafter guessed for in this step
        self.max_sequences, self.step_tokens, self._clock = max_sequences, step_tokens, clock
        self.running: list[Sequence] = []
        self.waiting = Line()
        self._deadlines = Line()
        self._planned: list[tuple[Sequence, Row]] = []
        self.preemptions = 0
        self._balance = Balance()

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line."""
        self.waiting.push(sequence.priority, sequence)
        if sequence.deadline is not None:
            self._deadlines.push(sequence.deadline, sequence)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Take a sequence out, whatever it was doing; its blocks are free at once, and with `forget` nobody finds them."""
        sequence.finished = True
        if sequence.running:
            self.running.remove(sequence)
        else:
            self.waiting.leave()
        if sequence.deadline is not None:
            self._deadlines.leave()
        if self._drafter is not None:
            self._drafter.forget(sequence)
        if forget:
            self.cache.forget(sequence.blocks)
        self._free(sequence)

    def restart(self) -> None:
        """The model has changed: what was computed is void, and running sequences are computed anew."""
        for sequence in list(self.running):
            self._preempt(sequence)
        self.cache.clear()

    def expired(self) -> Iterator[Sequence]:
        """Sequences whose deadline has passed, each to be removed before the next is asked for."""
        now = self._clock()
        while (first := self._deadlines.first()) is not None and first[0] <= now:
            yield first[1]

    def plan(self) -> StepPlan:
        """The next step; without rows when there is nothing to do."""
        self._planned = []
        budget = self.step_tokens
        self.running.sort(key=lambda s: (s.end - s.computed > 1, s.priority, s.arrival))
        count = sum(s.end - s.computed <= 1 for s in self.running)
        decoding, prompting = self.running[:count], self.running[count:]
        for sequence in decoding:
            if sequence.running and budget > 0:  # it may have given way to one before it
                budget -= self._plan_one(sequence, budget)
        watched = any(s.running and not s.patient for s in decoding)
        kept = max(0, budget - self._balance.tokens()) if watched else 0
        budget -= kept
        for sequence in prompting:
            if sequence.running and budget > 0:
                budget -= self._plan_one(sequence, budget)
        while budget > 0 and len(self.running) < self.max_sequences and (first := self.waiting.first()) is not None:
            sequence = first[1]
            if not self._admit(sequence):
                break
            self.waiting.pop()
            sequence.running = True
            self.running.append(sequence)
            budget -= self._plan_one(sequence, budget)
        if self._verifies:
            self._guess(budget + kept)
        return StepPlan([row for _, row in self._planned])

    def commit(self, results: list[RowResult], seconds: float | None = None) -> list[tuple[Sequence, RowResult]]:
        """Take the results of the last plan, which took `seconds`; returns those of sequences that are still wanted and have news: a token, the
        last of their scores, or numbers that are not finite.
        """
        counts = [len(row.tokens) - row.draft for _, row in self._planned]
        if seconds is not None and 1 in counts:
            self._balance.learn(sum(count for count in counts if count > 1), seconds)
        news = []
        for (sequence, row), result in zip(self._planned, results, strict=True):
            if sequence.finished:
                continue
            if not result.finite:
                news.append((sequence, result))
                continue
            sequence.computed = row.start + len(row.tokens) - row.draft
            if row.draft and self._drafter is not None and sequence in self._drafted:
                self._drafter.learn(sequence, row.draft, len(result.accepted))
            self._publish(sequence)
            if result.scores:
                sequence.scores += result.scores
            if result.state is not None:
                before = sequence.state or [0.0] * len(result.state)
                sequence.state = [a + b for a, b in zip(before, result.state, strict=True)]
            if sequence.computed == sequence.end:
                news.append((sequence, result))
            if result.token is not None:
                sequence.tokens.append(result.token)
        self._planned = []
        return news

    def extend(self, sequence: Sequence, token: int) -> None:
        """The guess after a sequence's last token was right, and is computed: `token` follows it."""
        sequence.computed += 1
        self._publish(sequence)
        sequence.tokens.append(token)

    def _plan_one(self, sequence: Sequence, budget: int) -> int:
        """Plan up to `budget` tokens of a running sequence; returns how many."""
        if self.store is not None and sequence.computed < sequence.prompt_length:
            budget -= (loaded := self._load(self.store, sequence, budget))
            if not sequence.running or budget <= 0:
                return loaded
            return loaded + self._plan_rest(sequence, budget)
        return self._plan_rest(sequence, budget)

    def _load(self, store: PrefixStore, sequence: Sequence, budget: int) -> int:
        """Take up to `budget` tokens of a prompt, and no less than a group, from disk; returns how many."""
        size, begun = self.cache.size, sequence.computed
        while sequence.computed - begun < budget:
            group = sequence.computed // (size * GROUP)
            stop = (group + 1) * size * GROUP
            if stop > min(sequence.found, sequence.prompt_length) or not self._make_room(sequence, stop):
                break
            name = self._name(sequence, (group + 1) * GROUP - 1)
            blocks = sequence.blocks[group * GROUP : (group + 1) * GROUP]
            first = sequence.computed // size % GROUP
            if not store.load(name, sequence.tokens[stop - size * GROUP : stop], blocks, first):
                break
            if sequence.cached == sequence.computed:
                sequence.cached = stop
            sequence.computed = stop
            self._publish(sequence)
        return sequence.computed - begun

    def _plan_rest(self, sequence: Sequence, budget: int) -> int:
        count = min(sequence.end - sequence.computed, budget)
        if not self._make_room(sequence, sequence.computed + count):
            return 0
        start, stop = sequence.computed, sequence.computed + count
        row = Row(sequence.tokens[start:stop], start, sequence.blocks)
        if stop == sequence.end:
            row.score_tokens = sequence.score_tokens
            if sequence.generates:
                row.sampling = self._sampling(sequence)
        if sequence.pooling == "mean":
            row.state_from = 0
        elif sequence.pooling == "last" and stop == sequence.end:
            row.state_from = count - 1
        unscored = sequence.unscored
        if unscored is not None and unscored < stop:
            row.first_target = unscored - start
            row.targets = sequence.tokens[unscored + 1 : min(stop + 1, sequence.prompt_length)]
            row.target_top = sequence.params.logprobs or 0
        self._planned.append((sequence, row))
        return count

    def _guess(self, budget: int) -> None:
        """Add what may follow to decoding rows: as much as costs little beside the other sequences, in blocks that nobody misses.

        What a grammar leaves no choice about goes first, and needs no drafter.
        """
        wishes: list[tuple[Wish, Row]] = []
        size = self.cache.size
        for sequence, row in self._planned:
            constraint = sequence.constraint
            if (
                row.sampling is None
                or len(row.tokens) > 1
                or not (constraint is None or isinstance(constraint, Walkable))
            ):
                continue
            length = len(sequence.tokens)
            spare = max(0, self.cache.free - len(self.running)) * size + len(sequence.blocks) * size - length
            most = min(LONGEST // len(self.running), budget, sequence.max_length - length - 1, spare)
            if most <= 0:
                continue
            wish = Wish(sequence, row.sampling, most)
            if constraint is not None:
                wish.guess = list(constraint.forced()[:most])
            if wish.guess or self._drafter is not None:
                self._make_room(sequence, length + most)
                budget -= most
                wishes.append((wish, row))
        drafted = [wish for wish, _ in wishes if not wish.guess]
        if self._drafter is not None and drafted:
            self._drafter.guess(drafted)
        self._drafted = {wish.sequence for wish in drafted}
        for wish, row in wishes:
            row.tokens += wish.guess
            row.draft = len(wish.guess)
            if row.draft and isinstance(wish.sequence.constraint, Walkable):
                wish.sampling.mask = wish.sequence.constraint.walk(wish.guess)

    def _sampling(self, sequence: Sequence) -> Sampling:
        params = sequence.params
        penalized = params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
        return Sampling(
            params,
            sequence.seed,
            sequence.reply_length,
            sequence.tokens if penalized else (),
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
        victim.running = False
        self._free(victim)
        self.waiting.push(victim.priority, victim)

    def _free(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks, sequence.published, sequence.computed, sequence.kept = [], 0, 0, 0
        if not sequence.finished:
            sequence.state = None  # its parts come again

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence the blocks that others have computed already; False when it had better wait.

        It waits for room for all its tokens, and for a running sequence that is just computing the block it needs next.
        What is still to be scored or pooled, and the last token, it computes itself.
        """
        cache = self.cache
        shared: list[int] = []
        for i in range(sequence.found // cache.size):
            block = cache.find(self._name(sequence, i))
            if block is None:
                if self._being_computed(sequence, i):
                    return False
                break
            shared.append(block)
        for block in shared:
            cache.use(block)
        if cache.blocks_for(sequence.end) - len(shared) > cache.free and (self.running or shared):
            cache.release(shared)
            return False
        sequence.blocks, sequence.published = shared, len(shared)
        sequence.computed = len(shared) * cache.size
        if sequence.cached is None:
            sequence.cached = sequence.computed
        return True

    def _being_computed(self, sequence: Sequence, i: int) -> bool:
        """Whether a running sequence has the same tokens through block `i` and has not got there yet."""
        stop = (i + 1) * self.cache.size
        name = self._name(sequence, i)
        return any(other.computed < stop <= other.end and self._name(other, i) == name for other in self.running)

    def _name(self, sequence: Sequence, i: int) -> bytes:
        return self.cache.name(sequence.tokens, sequence.digests, i)

    def _publish(self, sequence: Sequence) -> None:
        """Let others find the blocks that have become full, and keep those of prompts on disk."""
        while (sequence.published + 1) * self.cache.size <= sequence.computed:
            i = sequence.published
            self.cache.publish(sequence.blocks[i], self._name(sequence, i))
            sequence.published += 1
        if self.store is None:
            return
        tokens = self.cache.size * GROUP
        while (sequence.kept + 1) * tokens <= min(sequence.computed, sequence.prompt_length):
            at, group = sequence.kept * GROUP, sequence.kept * tokens
            sequence.kept += 1
            blocks = sequence.blocks[at : at + GROUP]
            self.store.save(self._name(sequence, at + GROUP - 1), sequence.tokens[group : group + tokens], blocks)
