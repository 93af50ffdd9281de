"""The scheduler and the cache by themselves: no block leaks, no plan breaks its bounds, whatever happens."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from herd.engine.backend import RowResult
from herd.engine.cache import BlockCache
from herd.engine.request import SamplingParams, TokenLogprob
from herd.engine.scheduler import Scheduler
from herd.engine.sequence import Sequence


def sequence(name: str, tokens: list[int], limit: int, arrival: int, priority: int = 0) -> Sequence:
    return Sequence(name, 0, SamplingParams(), list(tokens), len(tokens), limit, 0, priority, arrival)


class World:
    """A scheduler whose model answers with a number that depends on the tokens before it."""

    def __init__(self, blocks: int, size: int, sequences: int, budget: int) -> None:
        self.cache = BlockCache(blocks, size)
        self.scheduler = Scheduler(self.cache, max_sequences=sequences, step_tokens=budget)
        self.contents: dict[int, tuple[int, int]] = {}  # cache position -> (token, position in its sequence)
        self.live: dict[str, Sequence] = {}
        self.done: dict[str, list[int]] = {}

    def step(self) -> None:
        plan = self.scheduler.plan()
        assert sum(len(row.tokens) for row in plan.rows) <= self.scheduler.step_tokens
        assert len(plan.rows) <= self.scheduler.max_sequences
        results = []
        size = self.cache.size
        for row in plan.rows:
            assert row.tokens
            assert len(row.blocks) == self.cache.blocks_for(row.start + len(row.tokens))
            for i, token in enumerate(row.tokens, row.start):
                self.contents[row.blocks[i // size] * size + i % size] = (token, i)
            seen = [self.contents[row.blocks[i // size] * size + i % size] for i in range(row.start + len(row.tokens))]
            assert [position for _, position in seen] == list(range(len(seen)))
            result = RowResult(answer([t for t, _ in seen])) if row.sampling else RowResult()
            if row.targets is not None:
                assert row.first_target + len(row.targets) <= len(row.tokens)
                first = row.start + row.first_target + 1
                result.scores = [TokenLogprob(token, first + i) for i, token in enumerate(row.targets)]
            results.append(result)
        for s, _ in self.scheduler.commit(results):
            if len(s.tokens) >= s.max_length:
                if s.score_from is not None:  # each from there on once, with its own position
                    wanted = range(s.score_from, s.prompt_length)
                    assert [(score.token, score.logprob) for score in s.scores] == [(s.tokens[i], i) for i in wanted]
                self.scheduler.remove(s)
                self.done[s.request] = s.tokens
                del self.live[s.request]

    def check(self) -> None:
        held = [b for s in self.scheduler.running for b in s.blocks]
        assert self.cache.free + len(set(held)) == self.cache.count
        for block in range(self.cache.count):
            assert self.cache._users[block] == held.count(block)
        assert not any(s.blocks for s in self.scheduler.waiting)


def answer(tokens: list[int]) -> int:
    return (sum((i + 1) * t for i, t in enumerate(tokens)) + len(tokens)) % 7


def alone(tokens: list[int], limit: int) -> list[int]:
    out = list(tokens)
    while len(out) < limit:
        out.append(answer(out))
    return out


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(blocks=12, size=4, sequences=4, budget=10)
        self.count = 0
        self.expected: dict[str, list[int]] = {}

    @rule(prefix=st.integers(0, 2), length=st.integers(1, 30), more=st.integers(1, 14), priority=st.integers(0, 1))
    def submit(self, prefix, length, more, priority):
        tokens = [(prefix * 3 + i) % 5 for i in range(length)]
        limit = min(length + more, 48)
        s = sequence(str(self.count), tokens, limit, self.count, priority)
        self.count += 1
        self.world.live[s.request] = s
        self.expected[s.request] = alone(tokens, limit)
        self.world.scheduler.add(s)

    @precondition(lambda self: self.world.live)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.world.live)))
        self.world.scheduler.remove(self.world.live.pop(name))

    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            self.world.step()

    @invariant()
    def nothing_leaks(self):
        self.world.check()
        for name, tokens in self.world.done.items():
            assert tokens == self.expected[name]

    def teardown(self):
        for _ in range(2000):
            if not self.world.live:
                break
            self.world.step()
        assert not self.world.live, "some sequence never finished"
        assert self.world.cache.free == self.world.cache.count


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_ten_thousand_random_steps_leak_nothing():
    rng = random.Random(7)
    world = World(blocks=40, size=4, sequences=8, budget=24)
    expected = {}
    for i in range(10_000):
        action = rng.random()
        if action < 0.25 and len(world.live) < 40:
            tokens = [rng.randrange(2) * 3 + j % 3 for j in range(rng.randrange(1, 60))]
            limit = len(tokens) + rng.randrange(1, 40)
            s = sequence(str(i), tokens, limit, i, rng.randrange(3))
            if rng.random() < 0.3 and len(tokens) > 1:
                s.score_from = rng.randrange(1, len(tokens))
                s.max_length = rng.choice([limit, len(tokens)])
            limit = s.max_length
            world.live[s.request] = s
            expected[s.request] = alone(tokens, limit)
            world.scheduler.add(s)
        elif action < 0.3 and world.live:
            name = rng.choice(sorted(world.live))
            world.scheduler.remove(world.live.pop(name))
        else:
            world.step()
        if i % 50 == 0:
            world.check()
    while world.live:
        world.step()
    world.check()
    assert world.cache.free == world.cache.count
    assert world.scheduler.preemptions > 0
    assert len(world.done) > 500
    assert all(world.done[name] == expected[name] for name in world.done)


def test_equal_prefixes_are_computed_once():
    world = World(blocks=64, size=4, sequences=8, budget=16)
    tokens = [i % 5 for i in range(41)]
    sequences = [sequence(str(i), tokens, 45, i) for i in range(5)]
    for s in sequences:
        world.live[s.request] = s
        world.scheduler.add(s)
    computed = 0
    while world.live:
        before = {id(s): s.computed for s in sequences}
        world.step()
        computed += sum(max(0, s.computed - before[id(s)]) for s in sequences if not s.finished)
    assert [s.cached for s in sequences] == [0, 40, 40, 40, 40]
    later = sequence("later", tokens, 45, 9)
    world.live["later"] = later
    world.scheduler.add(later)
    world.step()
    assert later.cached == 40


def test_priorities_go_first_and_the_last_gives_way():
    world = World(blocks=10, size=4, sequences=4, budget=64)
    low = sequence("low", [1] * 16, 40, 0, priority=5)
    high = sequence("high", [2] * 16, 40, 1, priority=0)
    for s in (low, high):
        world.live[s.request] = s
        world.scheduler.add(s)
    finished = []
    while world.live:
        world.step()
        finished += [n for n in world.done if n not in finished]
    assert finished == ["high", "low"]
    assert world.scheduler.preemptions > 0


@pytest.mark.parametrize("budget", [1, 3, 1000])
def test_chunked_prompts_give_the_same_result(budget):
    world = World(blocks=40, size=4, sequences=4, budget=budget)
    s = sequence("x", [i % 7 for i in range(50)], 60, 0)
    world.live["x"] = s
    world.scheduler.add(s)
    while world.live:
        world.step()
    assert world.done["x"] == alone([i % 7 for i in range(50)], 60)


@pytest.mark.parametrize("deep", [0.0, 0.002])
def test_prompts_leave_replies_that_are_read_their_pace(deep):
    """Steps of a machine on which a reply takes 10 ms and a prompt's token 0.4 ms, and more the deeper it lies."""

    def run(patient: bool) -> list[float]:
        scheduler = Scheduler(BlockCache(1000, 16), step_tokens=512)
        reply, prompt = sequence("reply", [1], 4000, 0), sequence("prompt", list(range(4000)), 4001, 1)
        reply.patient = patient
        scheduler.add(reply)
        took: list[float] = []
        while prompt.computed < 4000:
            if len(took) == 20:
                scheduler.add(prompt)
            rows = scheduler.plan().rows
            chunks = [row for row in rows if len(row.tokens) > 1]
            took.append(0.01 + sum(len(row.tokens) * (0.0004 + row.start * deep / 1000) for row in chunks))
            scheduler.commit([RowResult(1) if row.sampling else RowResult() for row in rows], took[-1])
        return took[20:]

    read = run(patient=False)
    assert sum(read) / len(read) < 0.028
    assert max(read[2:]) < 0.035
    assert (sum(read) - 0.01 * len(read)) / sum(read) > 0.4  # prompts go on too
    assert max(run(patient=True)) > 0.2
