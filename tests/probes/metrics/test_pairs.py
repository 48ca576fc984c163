"""Means over pairs by hand, and that the bootstrap resamples members, not pairs."""

import numpy as np
import pytest

from probes.metrics.pairs import mean_of_pairs


def test_pairs_are_within_blocks_by_hand():
    one = np.array([[0.0, 3.0], [3.0, 0.0]])
    two = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, np.nan], [2.0, np.nan, 0.0]])
    found = mean_of_pairs([one, two, np.zeros((1, 1))])
    assert found["value"] == pytest.approx((3 + 1 + 2) / 3)
    assert (found["n"], found["blocks"], found["pairs"], found["unscored"]) == (5, 2, 3, 1)
    assert 1.0 <= found["low"] <= found["value"] <= found["high"] <= 3.0


def test_nothing_to_compare_is_none():
    for blocks in ([], [np.zeros((1, 1))], [np.full((2, 2), np.nan)]):
        found = mean_of_pairs(blocks)
        assert found["value"] is found["low"] is found["high"] is None and found["pairs"] == 0
    pair = mean_of_pairs([np.array([[0.0, 2.0], [2.0, 0.0]])])
    assert (pair["value"], pair["low"], pair["high"]) == (2.0, None, None), "one pair has no interval"


def test_the_interval_is_that_of_resampled_members():
    """Against resampling written out; a member moves all of its pairs at once, so the interval is wide."""
    points = np.random.default_rng(0).normal(size=20)
    matrix = np.abs(points[:, None] - points[None, :])
    found, draw, means = mean_of_pairs([matrix]), np.random.default_rng(1), []
    for _ in range(4000):
        picked = draw.integers(0, 20, 20)
        values = [matrix[a, b] for n, a in enumerate(picked) for b in picked[:n] if a != b]
        if values:
            means.append(np.mean(values))
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.05)
    pairs = matrix[np.triu_indices(20, 1)]
    assert found["high"] - found["low"] > 1.5 * 2 * 1.96 * pairs.std() / np.sqrt(len(pairs))
