"""AUROC, TPR at a fixed FPR and intervals: hand arithmetic, scipy, and what an interval has to do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from probes.metrics import (
    auroc,
    bootstrap_auroc,
    bootstrap_difference,
    bootstrap_mean,
    rate_interval,
    ratio_interval,
    tpr_at_fpr,
    wilson,
)

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


def test_auroc_by_hand() -> None:
    # Pairs won by a positive: 3 > 1, 3 > 2, 2 > 1 are three, 2 = 2 is half: 3.5 of 4.
    assert auroc([3, 2], [1, 2]) == pytest.approx(3.5 / 4)
    assert auroc([1], [2]) == 0 and auroc([2], [1]) == 1 and auroc([1], [1]) == 0.5
    assert np.isnan(auroc([], [1]))


def test_auroc_with_its_interval_resamples_works() -> None:
    ones, others = np.array([3.0, 3.0, 1.0, 1.0]), np.array([2.0, 2.0, 0.0])
    found = bootstrap_auroc(ones, others, ["a", "a", "b", "b"])
    assert found.value == auroc(ones, others) and (found.n, found.clusters) == (7, 5)
    # Drawing only work "b" loses against both 2s; drawing only "a" wins everything.
    assert found.low < 0.5 and found.high == 1.0
    alone = bootstrap_auroc(ones, others)
    assert alone.high - alone.low < found.high - found.low
    assert np.isnan(bootstrap_auroc([], [1]).value)


@given(positives=scores, negatives=scores)
def test_auroc_is_the_mann_whitney_statistic(positives: list[float], negatives: list[float]) -> None:
    expected = stats.mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
    assert auroc(positives, negatives) == pytest.approx(expected)


def test_tpr_at_fpr_by_hand() -> None:
    negatives = list(range(100))
    # At most 1 of 100 negatives may pass: the threshold must be above 98, and 99 passes itself.
    assert tpr_at_fpr([99, 98, 200, 5], negatives, 0.01) == (0.5, 99.0)
    assert tpr_at_fpr([99, 98, 200, 5], negatives, 0.02) == (0.75, 98.0)
    assert tpr_at_fpr([1], [2], 0.0) == (0.0, float("inf"))
    assert np.isnan(tpr_at_fpr([], [1], 0.1)[0])


@given(positives=scores, negatives=scores, fpr=st.floats(0, 1))
def test_tpr_at_fpr_is_the_best_that_keeps_the_rate(positives: list[float], negatives: list[float], fpr: float) -> None:
    found, threshold = tpr_at_fpr(positives, negatives, fpr)
    high, low = np.array(positives), np.array(negatives)
    assert (low >= threshold).mean() <= fpr
    every = [(high >= t).mean() for t in [*np.unique([positives + negatives]), np.inf] if (low >= t).mean() <= fpr]
    assert found == pytest.approx(max(every))


def test_scores_that_arent_finite_are_refused() -> None:
    for call in (lambda: auroc([float("nan")], [1]), lambda: bootstrap_mean([1, float("inf")])):
        with pytest.raises(ValueError, match="1 of"):
            call()


@pytest.mark.parametrize("successes, n", [(0, 5), (1, 5), (5, 5), (37, 100), (0, 1)])
def test_wilson_against_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0


def test_wilson_knows_nothing_of_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError):
        wilson(3, 2)


def test_the_bootstrap_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 60)
    found = bootstrap_mean(values, draws=8000)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=8000, rng=1).confidence_interval
    assert found.value == pytest.approx(values.mean()) and found.n == found.clusters == 60
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.04)
    assert found == bootstrap_mean(values, draws=8000), "the same seed gives the same interval"


def test_ten_seeds_of_one_work_are_not_ten_works() -> None:
    works = np.repeat(np.arange(8), 10)
    values = np.repeat([0, 1, 0, 1, 1, 0, 1, 1], 10).astype(float)
    naive, clustered = bootstrap_mean(values), bootstrap_mean(values, works)
    assert clustered.clusters == 8 and naive.clusters == 80
    # Eight coins instead of eighty: the standard error is sqrt(10) times larger.
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(10**0.5, rel=0.25)


def test_clusters_of_different_size_keep_their_weight() -> None:
    found = bootstrap_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert found.value == 0.75 and found.low == 0.0 and found.high == 1.0
    with pytest.raises(ValueError, match="4 values and 1 cluster"):
        bootstrap_mean([1, 1, 1, 0], ["a"])


def test_the_bootstrap_of_a_difference() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 80), rng.normal(0, 1, 50)
    found = bootstrap_difference(a, b)
    assert found.value == pytest.approx(a.mean() - b.mean())
    half = 1.96 * np.sqrt(a.var() / 80 + b.var() / 50)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.06)
    assert bootstrap_difference([1, 1], [0, 0]).value == 1
    assert np.isnan(bootstrap_difference([], [0]).value)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        found = rate_interval(list(rng.random(60) < 0.3))
        hits += found.low <= 0.3 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_rate_leaves_out_what_couldnt_be_judged() -> None:
    found = rate_interval([True, None, False, None], ["a", "a", "b", "c"])
    assert (found.value, found.n, found.clusters, found.unscored) == (0.5, 2, 2, 2)
    nothing = rate_interval([None, None])
    assert np.isnan(nothing.value) and (nothing.low, nothing.high, nothing.n, nothing.unscored) == (0, 1, 0, 2)


def test_none_of_twenty_is_not_proof_of_zero() -> None:
    found = rate_interval([False] * 20, [seed // 2 for seed in range(20)])
    # Ten works: Wilson's upper limit is z^2 / (n + z^2) = 3.8415 / 13.8415.
    assert found.value == 0 and found.low == 0 and found.high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    assert found.method == "wilson"
    assert rate_interval([True] * 20).low == pytest.approx(1 - 3.8415 / 23.8415, abs=1e-4)


def test_a_ratio_of_weighted_sums_resamples_works() -> None:
    # Parts sum to 1, wholes to 6. Drawing only work "a" gives 1/4, only "b" 0.
    found = ratio_interval([1, 0, 0, 0], [1, 3, 2, 0], ["a", "a", "b", "b"])
    assert (found.value, found.low, found.high) == (pytest.approx(1 / 6), 0.0, 0.25)
    assert (found.n, found.clusters, found.method) == (4, 2, "bootstrap")


def test_a_ratio_of_nothing_is_as_sure_as_its_works_allow() -> None:
    none = ratio_interval([0, 0, 0], [1, 4, 0], ["a", "b", "c"])
    assert (none.value, none.low, none.high, none.clusters) == (0.0, 0.0, wilson(0, 2)[1], 2)
    unknown = ratio_interval([0.0], [0.0])
    assert np.isnan(unknown.value) and (unknown.low, unknown.high, unknown.clusters) == (0.0, 1.0, 0)
