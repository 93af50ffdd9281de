"""Ratings beside evalica 0.4.2 and arena-rank 0.1.1, whose figures `golden/make_arena.py` keeps in `golden/arena.json`."""

import json
from pathlib import Path

import numpy as np
import pytest

from herd.arena.rank import Table, bradley_terry, sandwich, style_control
from herd.arena.votes import read_csv

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "arena.json").read_text())


def real():
    votes = list(read_csv(HERE.parent / "data" / "llmfao.csv"))
    names = sorted({v.first for v in votes} | {v.second for v in votes})
    at = {name: i for i, name in enumerate(names)}
    return (
        names, np.array([at[v.first] for v in votes]), np.array([at[v.second] for v in votes]),
        np.array([{"left": 0, "right": 2}.get(v.winner, 1) for v in votes]),
    )  # fmt: skip


def simulated(models=12, votes=20_000, seed=5):
    """The same votes as golden/make_arena.py makes."""
    generator = np.random.default_rng(seed)
    skill = generator.normal(0, 1, models)
    first = generator.integers(0, models, votes)
    second = (first + generator.integers(1, models, votes)) % models
    style = generator.normal(0, 1, (votes, 2)).round(6)
    chance = 1 / (1 + np.exp(skill[second] - skill[first] - style @ np.array([0.4, -0.2])))
    luck = generator.random(votes)
    outcome = np.where(luck < 0.9 * chance, 0, np.where(luck < 0.9 * chance + 0.1, 1, 2))
    return ([f"model-{i:02}" for i in range(models)], first, second, outcome), style


@pytest.mark.parametrize("which", ["llmfao", "simulated"])
def test_ratings_and_intervals(which):
    votes = real() if which == "llmfao" else simulated()[0]
    table = Table.of(*votes)
    found = sandwich(table, bradley_terry(table))
    golden = GOLDEN[which]
    assert set(golden["evalica"]) == set(found.names)
    assert max(abs(golden["evalica"][n] - r) for n, r in zip(found.names, found.rating, strict=True)) < 1e-8
    assert max(abs(golden["arena_rank"][n] - r) for n, r in zip(found.names, found.rating, strict=True)) < 1e-6
    half = found.high - found.rating
    assert max(abs(golden["arena_rank_half"][n] / h - 1) for n, h in zip(found.names, half, strict=True)) < 1e-4


def test_style_control():
    votes, style = simulated()
    found = style_control(*votes, {"length": style[:, 0], "bold": style[:, 1]})
    assert max(abs(GOLDEN["style"]["ratings"][n] - r) for n, r in zip(found.names, found.rating, strict=True)) < 1e-6
    assert list(found.style.values()) == pytest.approx(GOLDEN["style"]["style"], abs=1e-6)
