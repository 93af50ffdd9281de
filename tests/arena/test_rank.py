import math

import numpy as np
import pytest

from herd.arena.rank import (
    Table,
    bootstrap,
    bradley_terry,
    elo,
    points,
    prediction,
    sandwich,
    style_control,
    unconnected,
)
from herd.errors import ConfigError


def simulated(skill, votes, seed, ties=0.1):
    generator = np.random.default_rng(seed)
    skill, size = np.asarray(skill), len(skill)
    first = generator.integers(0, size, votes)
    second = (first + generator.integers(1, size, votes)) % size
    chance = 1 / (1 + np.exp(skill[second] - skill[first]))
    luck = generator.random(votes)
    outcome = np.where(luck < (1 - ties) * chance, 0, np.where(luck < (1 - ties) * chance + ties, 1, 2))
    return [f"m{i}" for i in range(size)], first, second, outcome


def test_two_models_by_hand():
    table = Table.of(["a", "b"], np.array([0] * 10), np.array([1] * 10), np.array([0] * 6 + [1] * 2 + [2] * 2))
    found = sandwich(table, bradley_terry(table))
    assert found.rating[0] - found.rating[1] == pytest.approx(math.log(7 / 3))
    assert points(found.rating[0]) - points(found.rating[1]) == pytest.approx(400 * math.log10(7 / 3))
    assert found.win_rates()[0, 1] == pytest.approx(0.7)
    assert found.ranks() == [(1, 2), (1, 2)]


def test_intervals_hold_the_truth_as_often_as_they_say():
    skill = np.linspace(1.2, -1.2, 8)
    inside = {"sandwich": 0, "bootstrap": 0}
    for seed in range(60):
        table = Table.of(*simulated(skill, 3000, seed, ties=0.0))
        plain = bradley_terry(table)
        for name, found in (("sandwich", sandwich(table, plain)), ("bootstrap", bootstrap(table, plain, seed=seed))):
            inside[name] += int(((found.low <= skill) & (skill <= found.high)).sum())
    assert 0.92 < inside["sandwich"] / 480 < 0.98
    assert 0.90 < inside["bootstrap"] / 480 < 0.98


def test_order_of_names_and_sides_does_not_matter():
    names, first, second, outcome = simulated([1, 0, -1, 0.3], 500, 1)
    one = bradley_terry(Table.of(names, first, second, outcome))
    other = bradley_terry(Table.of(names, second, first, 2 - outcome))
    assert other.rating == pytest.approx(one.rating, abs=1e-12)


def test_what_has_no_finite_rating_is_named():
    table = Table.of(["best", "a", "b"], np.array([0, 0, 1, 2]), np.array([1, 2, 2, 1]), np.array([0, 0, 0, 0]))
    assert sorted(map(len, unconnected(table.wins()))) == [1, 2]
    with pytest.raises(ConfigError, match="best: only won"):
        bradley_terry(table)
    found = bradley_terry(table, prior=0.5)
    assert found.order()[0] == 0
    for wrong in (
        lambda: Table.of(["a", "b"], np.array([0]), np.array([0]), np.array([0])),
        lambda: Table.of(["a", "b"], np.array([0]), np.array([2]), np.array([0])),
        lambda: Table.of(["a", "b"], np.array([0]), np.array([1]), np.array([3])),
        lambda: bradley_terry(Table.of(["a"], *[np.array([], int)] * 3)),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_lopsided_tables_converge():
    table = Table.of(
        ["a", "b", "c"],
        np.array([0] * 100_001 + [1] * 3),
        np.array([1] * 100_001 + [2] * 3),
        np.array([0] * 100_000 + [2] + [0, 2, 0]),
    )
    found = bradley_terry(table)
    assert found.rating[0] - found.rating[1] == pytest.approx(math.log(100_000), rel=1e-9)


def test_style_is_told_apart_from_skill():
    names, first, second, _ = simulated([0.5, 0, -0.5], 30_000, 2)
    generator = np.random.default_rng(3)
    wordy = np.array([0.0, 1.5, 0.0])  # the second model writes long replies, which voters like
    length = wordy[first] - wordy[second] + generator.normal(0, 1, len(first))
    skill = np.array([0.5, 0, -0.5])
    chance = 1 / (1 + np.exp(skill[second] - skill[first] - 0.8 * length))
    outcome = np.where(generator.random(len(first)) < chance, 0, 2)
    plain = bradley_terry(Table.of(names, first, second, outcome))
    controlled = style_control(names, first, second, outcome, {"length": length})
    assert plain.order()[0] == 1
    assert controlled.order().tolist() == [0, 1, 2]
    assert controlled.rating == pytest.approx(skill, abs=0.06)
    assert controlled.style["length"] == pytest.approx(0.8 * length.std(), abs=0.06)
    with pytest.raises(ConfigError, match="the same for every vote"):
        style_control(names, first, second, outcome, {"length": np.ones(len(first))})


def test_elo_and_prediction():
    votes = simulated([1.0, 0.2, -1.2], 6000, 4)
    assert elo(*votes).order().tolist() == [0, 1, 2]
    check = prediction(Table.of(*votes))
    assert check["votes"] == pytest.approx(1200, rel=0.1)
    assert check["log_loss"] < 0.95 * check["log_loss_of_a_coin"]
    assert check["accuracy"] > 0.6
