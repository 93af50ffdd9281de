"""The law of mixes: a planted one is found again, through noise too, and the best mix is the one that is best."""

import itertools
import tomllib
from pathlib import Path

import numpy as np
import pytest

from herd.cli.data import command
from herd.data.mix import Small, best, designs, fit
from herd.errors import ConfigError
from herd.runs import Run

SOURCES = ("web", "code", "books")
PLANTED = {"prose": (1.9, (0.4, 0.9, -0.6), 0.08), "programs": (0.8, (0.7, -1.4, 0.5), 0.12)}


def planted(name, shares, tokens):
    constant, effects, exponent = PLANTED[name]
    return constant + np.exp(np.dot(effects, [shares[s] for s in SOURCES])) * (tokens / 1e6) ** -exponent


def runs(count=16, noise=0.0, tokens=(5e5, 1e6, 2e6)):
    random = np.random.default_rng(1)
    mixes = designs(SOURCES, count)
    return [
        Small(mix, size, {name: planted(name, mix, size) * (1 + noise * random.standard_normal()) for name in PLANTED})
        for mix, size in zip(mixes, itertools.cycle(tokens), strict=False)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_a_planted_law_is_found_within_two_percent(noise):
    laws = fit(runs(noise=noise))
    for name, law in laws.items():
        assert law.missed < 0.01
        for mix in designs(SOURCES, 40, seed=9):
            at = np.array([mix[s] for s in law.sources])
            for tokens in (1e6, 8e6):  # four times as long as any run
                assert law.loss(at, tokens) == pytest.approx(planted(name, mix, tokens), rel=0.02)
    exact = fit(runs())["programs"]
    assert exact.constant == pytest.approx(0.8, rel=0.02)
    assert exact.exponent == pytest.approx(0.12, rel=0.02)


def test_the_best_mix_is_better_than_any_of_a_grid():
    found = best(fit(runs()), 4e6)

    def mean(mix):
        return sum(planted(name, mix, 4e6) for name in PLANTED)

    assert sum(found.values()) == pytest.approx(1)
    grid = [(i / 20, j / 20, 1 - i / 20 - j / 20) for i in range(21) for j in range(21 - i)]
    assert mean(found) <= min(mean(dict(zip(SOURCES, at, strict=True))) for at in grid) + 1e-4
    assert mean(found) < mean(dict.fromkeys(SOURCES, 1 / 3))
    assert best(fit(runs()), 4e6, {"programs": 1.0})["code"] > 0.99


def test_runs_of_one_length_tell_of_that_length():
    law = fit(runs(tokens=(1e6,)))["prose"]
    assert law.exponent == 0
    mix = designs(SOURCES, 9, seed=4)[-1]
    assert law.loss(np.array([mix[s] for s in law.sources]), 1e6) == pytest.approx(planted("prose", mix, 1e6), rel=0.02)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ConfigError, match="expected 6 or more"):
        fit(runs(count=16)[:5])
    with pytest.raises(ConfigError, match="differ in every source"):
        fit([runs()[0]] * 12)
    with pytest.raises(ConfigError, match="in common"):
        fit([])
    with pytest.raises(ConfigError, match="no number above 0"):
        fit([*runs()[:8], Small({"web": 1.0}, 1e6, {"prose": float("nan"), "programs": 1.0})])
    with pytest.raises(ConfigError, match="no validation set nothing"):
        best(fit(runs()), 1e6, {"nothing": 1.0})
    with pytest.raises(ConfigError, match="expected 7 or more"):
        designs(SOURCES, 3)


def test_training_runs_are_read_and_recipes_for_them_written(tmp_path, capsys):
    recipe = tmp_path / "base.toml"
    parts = "".join(f'[[data.sources]]\npath = "{name}.txt"\n' for name in SOURCES)
    recipe.write_text(f'{parts}[[data.validation]]\npath = "held.txt"\n[batch]\ntokens = 64\n')
    command.main(["mix", str(recipe), "--designs", "12", "--out", str(tmp_path / "mixes")], standalone_mode=False)
    made = sorted((tmp_path / "mixes").glob("*.toml"))
    assert len(made) == 12
    folders = []
    for path in made:
        values = tomllib.loads(path.read_text())
        assert values["batch"] == {"tokens": 64}
        assert all(Path(source["path"]).is_absolute() for source in values["data"]["sources"])
        mix = {Path(source["path"]).stem: source["weight"] for source in values["data"]["sources"]}
        run = Run.create(tmp_path / path.stem, "train", path.read_text(), version="0")
        with run.working():
            run.finish(tokens=1e6, **{"validation held loss": float(planted("programs", mix, 1e6))})
        folders.append(str(run.folder))
    capsys.readouterr()
    command.main(["mix", *folders], standalone_mode=False)
    told = capsys.readouterr().out
    assert float(told.split("code")[1].split("weight")[1].split()[0]) > 0.99
    assert "held" in told
    with pytest.raises(ConfigError, match="all runs are of 1,000,000 tokens"):
        command.main(["mix", *folders, "--tokens", "1e9"], standalone_mode=False)
    (tmp_path / "other.toml").write_text("a = 1")
    with pytest.raises(ConfigError, match="has no data"):
        command.main(["mix", str(tmp_path / "other.toml"), "--designs", "9"], standalone_mode=False)
