from pathlib import Path

import numpy as np

from herd.arena.pairs import choose, gains
from herd.arena.rank import Table, bradley_terry, sandwich
from herd.arena.rigging import flips, suspects
from herd.arena.votes import read_csv
from tests.arena.test_rank import simulated

DATA = Path(__file__).parents[1] / "data" / "llmfao.csv"


def test_the_least_votes_that_flip_do_and_one_less_does_not():
    names, first, second, outcome = simulated([0.6, 0.3, 0.0, -0.5], 800, 3)
    table = Table.of(names, first, second, outcome)
    ratings = bradley_terry(table)
    for flip in flips(table, ratings):
        upper, lower = names.index(flip.above), names.index(flip.below)
        for count, turned in ((flip.added - 1, False), (flip.added, True)):
            counts = table.counts.copy()
            counts[lower, upper, 0] += count
            found = bradley_terry(Table(table.names, counts))
            assert bool(found.rating[lower] > found.rating[upper]) is turned
        assert 0 < flip.dropped <= flip.added * 2


def attacked(seed, accounts=50, votes=10, honest=2000):
    """Honest voters of 9 or 10 votes over 20 models, and accounts that vote for one model whomever it meets."""
    generator = np.random.default_rng(seed)
    skill = generator.normal(0, 0.8, 20)
    target = int(np.argsort(skill)[10])
    per = generator.integers(9, 11, honest)
    names, first, second, outcome = simulated(skill, int(per.sum()), seed + 100)
    voter = np.repeat([f"honest-{i}" for i in range(honest)], per)
    other = (target + generator.integers(1, 20, accounts * votes)) % 20
    left = generator.random(accounts * votes) < 0.5
    first = np.concatenate((first, np.where(left, target, other)))
    second = np.concatenate((second, np.where(left, other, target)))
    outcome = np.concatenate((outcome, np.where(left, 0, 2)))
    voter = np.concatenate((voter, np.repeat([f"bad-{i}" for i in range(accounts)], votes)))
    return names, first, second, outcome, voter, skill, target


def test_fifty_accounts_among_two_thousand_are_found():
    for seed in (0, 1, 2):
        names, first, second, outcome, voter, _, target = attacked(seed)
        found = {s.voter for s in suspects(names, first, second, outcome, voter)}
        bad = {name for name in found if name.startswith("bad")}
        assert len(bad) >= 45
        assert len(found - bad) <= 20
        clean = np.char.startswith(voter, "honest")
        before = bradley_terry(Table.of(names, first[clean], second[clean], outcome[clean]))
        keep = ~np.isin(voter, list(found))
        after = bradley_terry(Table.of(names, first[keep], second[keep], outcome[keep]))
        place = [int(np.flatnonzero(r.order() == target)[0]) for r in (before, after)]
        assert abs(place[0] - place[1]) <= 1


def test_real_votes_have_two_who_push_one_model():
    votes = list(read_csv(DATA))
    names = sorted({v.first for v in votes} | {v.second for v in votes})
    at = {name: i for i, name in enumerate(names)}
    found = suspects(
        names, np.array([at[v.first] for v in votes]), np.array([at[v.second] for v in votes]),
        np.array([{"left": 0, "right": 2}.get(v.winner, 1) for v in votes]), np.array([v.voter for v in votes]),
    )  # fmt: skip
    assert [(s.voter, s.model) for s in found[:2]] == [("15", "Weaver 12k"), ("70", "Weaver 12k")]
    assert found[0].p_value < 1e-20


def width(table):
    found = sandwich(table, bradley_terry(table, prior=0.5))
    return float(np.mean(found.high - found.low))


def test_chosen_pairs_need_half_the_votes_of_random_ones():
    """Thirty models of widely different strength, four of them new: the mean width of the intervals."""
    ratios = []
    for seed in range(3):
        generator = np.random.default_rng(seed)
        skill = generator.normal(0, 2.0, 30)
        names = [f"m{i}" for i in range(30)]
        old = generator.integers(0, 26, (4000, 2))
        old = old[old[:, 0] != old[:, 1]]
        start = np.zeros((30, 30, 3))

        def vote(counts, a, b, generator=generator, skill=skill):
            won = generator.random() < 1 / (1 + np.exp(skill[b] - skill[a]))
            counts[a, b, 0 if won else 2] += 1

        for a, b in old:
            vote(start, a, b)
        random, chosen = start.copy(), start.copy()
        for _ in range(2000):
            vote(random, *generator.choice(30, 2, replace=False))
        goal = width(Table(tuple(names), random))
        used = 0
        while used < 2000 and width(Table(tuple(names), chosen)) > goal:
            gain = gains(Table(tuple(names), chosen))
            for pair in np.argsort(-gain, axis=None)[:40:2]:  # twenty pairs at a time
                vote(chosen, *divmod(int(pair), 30))
                used += 1
        ratios.append(used / 2000)
    assert np.median(ratios) <= 0.5


def test_any_pair_may_be_chosen_and_sides_are_random():
    table = Table.of(*simulated([1, 0.5, 0, -1], 200, 1))
    generator = np.random.default_rng(0)
    pairs = {choose(table, generator) for _ in range(400)}
    assert len(pairs) == 12
