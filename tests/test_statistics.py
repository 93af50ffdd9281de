import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.errors import ConfigError
from herd.statistics import bootstrap, krippendorff_alpha, mcnemar, mean, paired, proportion, standard_error


def test_the_papers_interval_and_wilsons():
    found = mean([1] * 845 + [0] * 155)
    assert found.high - found.value == pytest.approx(1.96 * math.sqrt(0.845 * 0.155 / 1000), rel=1e-4)
    wilson = proportion(5, 20)
    for bound in (
        wilson.low,
        wilson.high,
    ):  # where the score test just fails: |p - bound| = 1.96 sqrt(bound (1 - bound) / n)
        assert abs(0.25 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 20), rel=1e-5)
    assert proportion(0, 50).low == 0
    assert 0.05 < proportion(0, 50).high < 0.08


@given(st.integers(1, 400), st.data())
def test_an_interval_holds_its_value_and_stays_within_zero_and_one(trials, data):
    found = proportion(data.draw(st.integers(0, trials)), trials)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_copies_of_items_say_nothing_new_when_clustered():
    scores = np.array([0.0, 1, 1, 0, 1, 0, 1, 1])
    copies, groups = np.repeat(scores, 10), np.repeat(np.arange(8), 10)
    assert standard_error(copies, groups) == pytest.approx(standard_error(scores))
    assert standard_error(copies) < standard_error(scores) / 3


def test_mcnemar_is_the_binomial_test():
    for worse, better in ((3, 12), (0, 4), (10, 10), (480, 520), (520, 480)):
        n, fewer = worse + better, min(worse, better)
        exact = min(Fraction(1), 2 * Fraction(sum(math.comb(n, k) for k in range(fewer + 1)), 2**n))
        assert mcnemar(better, worse) == pytest.approx(float(exact), rel=1e-9)


def test_pairs_tell_apart_what_single_scores_cannot():
    generator = np.random.default_rng(3)
    hard = generator.random(2000)
    a = (generator.random(2000) < hard).astype(float)
    b = np.maximum(a, generator.random(2000) < 0.03)
    found = paired(a, b)
    assert found.difference.excludes_zero
    assert found.p_value < 1e-4
    assert (found.worse, found.items) == (0, 2000)
    assert 50 < found.items_needed < 2000
    single = mean(a), mean(b)
    assert single[0].high > single[1].low
    assert paired(a, a).items_needed is None
    assert paired([0.5, 0.2], [0.1, 0.9]).p_value is None


def test_bootstrap_agrees_with_the_normal_interval_and_repeats():
    scores = np.random.default_rng(0).normal(2, 1, 400)
    drawn = bootstrap(lambda i: float(scores[i].mean()), 400, draws=2000)
    normal = mean(scores)
    assert (drawn.low, drawn.high) == (pytest.approx(normal.low, abs=0.02), pytest.approx(normal.high, abs=0.02))
    assert drawn == bootstrap(lambda i: float(scores[i].mean()), 400, draws=2000)
    groups = np.repeat(np.arange(20), 20)
    wide = bootstrap(lambda i: float(np.repeat(scores[:20], 20)[i].mean()), 400, clusters=list(groups), draws=500)
    assert wide.high - wide.low > 3 * (normal.high - normal.low)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mean([]),
        lambda: mean([1.0, math.nan]),
        lambda: paired([1], [1, 0]),
        lambda: proportion(3, 2),
        lambda: mean([1, 0], clusters=["a"]),
        lambda: mean([1, 0], level=95),
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_krippendorffs_alpha_is_the_published_one():
    """The example of Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), sections C and D."""
    none = float("nan")
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    for metric, value in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert abs(krippendorff_alpha(ratings, metric) - value) < 0.0005
    assert np.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert np.isnan(krippendorff_alpha([[1, none], [none, 2]]))
    with pytest.raises(ConfigError, match="nominal"):
        krippendorff_alpha(ratings, "ratio")


def test_items_of_one_passage_have_no_interval():
    found = mean([0.0, 1.0, 1.0], ["p", "p", "p"])
    assert found.value == pytest.approx(2 / 3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert paired([0.0, 0.0], [1.0, 0.0], ["p", "p"]).items_needed is None
