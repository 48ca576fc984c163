"""By hand: with n scores and the k-th smallest kept, a new one lies above it with probability (n + 1 - k) / (n + 1)."""

import random

import pytest

from shield.calibration.budget import prompts_needed, rank_kept, rate_interval, smallest_rate
from shield.errors import BadRequestError
from shield.thresholds import quantile


@pytest.mark.parametrize("fpr, need", [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.9, 1), (0.001, 999), (0.07, 14)])
def test_the_smallest_number_of_prompts(fpr, need):
    assert prompts_needed(fpr) == need
    assert rank_kept(need, fpr) <= need
    if need > 1:
        with pytest.raises(BadRequestError, match=f"at least {need} benign prompts; {need - 1} were given"):
            rank_kept(need - 1, fpr)


@pytest.mark.parametrize("count", range(1, 120))
def test_a_number_and_its_smallest_rate_go_both_ways(count):
    """Also where 1 / (1 / n) isn't n in floating point."""
    assert prompts_needed(smallest_rate(count)) == count
    assert rank_kept(count, smallest_rate(count)) == count
    assert quantile("x", [float(n) for n in range(count)], smallest_rate(count))[0] == count - 1


def test_ranks_and_rates_by_hand():
    assert smallest_rate(99) == 0.01 and rank_kept(99, 0.01) == 99
    assert rank_kept(150, 0.01) == 150  # ceil(149.49)
    assert rank_kept(199, 0.01) == 198 and rank_kept(19, 0.1) == 18


@pytest.mark.parametrize("count, fpr", [(99, 0.01), (150, 0.01), (40, 0.1), (7, 0.5)])
def test_the_rank_is_the_one_that_thresholds_keep(count, fpr):
    scores = [float(n) for n in range(1, count + 1)]
    assert quantile("x", scores, fpr)[0] == rank_kept(count, fpr)


def test_intervals_by_hand():
    """With the largest of n kept, P(rate <= r) = 1 - (1 - r)^n."""
    low, high = rate_interval(99, 0.01)
    assert (1 - low) ** 99 == pytest.approx(0.975) and (1 - high) ** 99 == pytest.approx(0.025)
    assert rate_interval(399, 0.01)[1] < rate_interval(199, 0.01)[1] < high


def test_intervals_by_drawing():
    """Of 2,000 calibrations on uniform scores 95 % have their rate, 1 - threshold, inside."""
    draw, (low, high) = random.Random(3), rate_interval(39, 0.05)
    rates = [1 - quantile("x", [draw.random() for _ in range(39)], 0.05)[0] for _ in range(2000)]
    assert 0.935 < sum(low <= rate <= high for rate in rates) / 2000 < 0.965


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, float("nan")])
def test_rates_outside_are_refused(wrong):
    with pytest.raises(BadRequestError, match="between 0 and 1"):
        prompts_needed(wrong)


def test_no_prompts_are_refused():
    for call in (lambda: smallest_rate(0), lambda: rank_kept(0, 0.5)):
        with pytest.raises(BadRequestError, match="At least one benign prompt"):
            call()
