"""Figures and how sure they are: AUROC, TPR at a fixed FPR, Wilson and bootstrap intervals. numpy only.

Pictures of one work aren't independent: the same work with ten seeds is closer to one observation than to ten. Every
bootstrap here can resample whole works (``clusters``), which gives the wider, honest interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A figure with its two-sided interval. ``n`` observations in ``clusters`` works; ``unscored`` were left out."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    unscored: int = 0
    method: str = ""


def auroc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half; nan if either side is empty."""
    high, low = _finite(positives, "positives"), _finite(negatives, "negatives")
    if not high.size or not low.size:
        return float("nan")
    order = np.sort(low)
    below = np.searchsorted(order, high, side="left")
    not_above = np.searchsorted(order, high, side="right")
    return float((below + not_above).mean() / 2 / low.size)


def tpr_at_fpr(positives: ArrayLike, negatives: ArrayLike, fpr: float) -> tuple[float, float]:
    """Best true positive rate whose false positive rate is at most ``fpr``, and the threshold (flag: score >= it).

    The rate is never exceeded, also not by rounding to the nearest point of the curve. nan if either side is empty;
    the threshold is inf where no finite one keeps the rate.
    """
    high, low = _finite(positives, "positives"), _finite(negatives, "negatives")
    if not high.size or not low.size:
        return float("nan"), float("inf")
    candidates = np.unique(high)
    rates = (low[None, :] >= candidates[:, None]).mean(axis=1)
    allowed = candidates[rates <= fpr]
    if not allowed.size:
        return 0.0, float("inf")
    return float((high >= allowed[0]).mean()), float(allowed[0])


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) for n = 0: nothing is known."""
    if not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n, and got {successes} of {n}.")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends center and half are equal but for rounding.
    low = 0.0 if successes == 0 else center - half
    return low, 1.0 if successes == n else center + half


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean with the percentile bootstrap interval, resampling whole clusters (default: every value its own)."""
    array = _finite(values, "values")
    if not array.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0, method="bootstrap")
    sums, counts = _by_cluster(array, clusters)
    means = _resampled_means(sums, counts, draws, np.random.default_rng(seed))
    low, high = _percentiles(means, level)
    return Interval(float(array.mean()), low, high, array.size, sums.size, method="bootstrap")


def bootstrap_difference(
    ones: ArrayLike,
    others: ArrayLike,
    clusters_ones: Sequence[Hashable] | None = None,
    clusters_others: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean of ``ones`` minus mean of ``others``, two independent groups, percentile bootstrap over clusters."""
    a, b = _finite(ones, "ones"), _finite(others, "others")
    if not a.size or not b.size:
        return Interval(float("nan"), float("nan"), float("nan"), a.size + b.size, 0, method="bootstrap")
    rng = np.random.default_rng(seed)
    sums_a, counts_a = _by_cluster(a, clusters_ones)
    sums_b, counts_b = _by_cluster(b, clusters_others)
    gaps = _resampled_means(sums_a, counts_a, draws, rng) - _resampled_means(sums_b, counts_b, draws, rng)
    low, high = _percentiles(gaps, level)
    return Interval(
        float(a.mean() - b.mean()), low, high, a.size + b.size, sums_a.size + sums_b.size, method="bootstrap"
    )


def bootstrap_auroc(
    positives: ArrayLike,
    negatives: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    clusters_negatives: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """AUROC with the percentile bootstrap interval, resampling whole clusters of both sides."""
    high, low = _finite(positives, "positives"), _finite(negatives, "negatives")
    if not high.size or not low.size:
        return Interval(float("nan"), float("nan"), float("nan"), high.size + low.size, 0, method="bootstrap")
    wins = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    ours, theirs = _members(high.size, clusters), _members(low.size, clusters_negatives)
    wins, pairs = ours @ wins @ theirs.T, ours.sum(axis=1)[:, None] * theirs.sum(axis=1)[None, :]
    rng = np.random.default_rng(seed)
    often, other = (
        rng.multinomial(len(side), np.full(len(side), 1 / len(side)), size=draws) for side in (ours, theirs)
    )
    found = ((often @ wins) * other).sum(axis=1) / ((often @ pairs) * other).sum(axis=1)
    return Interval(
        float(wins.sum() / pairs.sum()),
        *_percentiles(found, level),
        high.size + low.size,
        len(ours) + len(theirs),
        method="bootstrap",
    )


def _members(size: int, clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    """(clusters, values) 1 where a value belongs to a cluster."""
    names = list(range(size)) if clusters is None else list(clusters)
    if len(names) != size:
        raise ValueError(f"There are {size} values and {len(names)} cluster names.")
    return np.array([[float(name == cluster) for name in names] for cluster in dict.fromkeys(names)])


def rate_interval(
    outcomes: Sequence[bool | None],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Share of True among the judged outcomes; None counts as unscored and is left out, never as False.

    Bootstrap over clusters. Where all outcomes are equal a bootstrap gives an interval of width zero, which claims
    more than n observations can: there it is Wilson's interval with one observation for each cluster.
    """
    kept = [index for index, outcome in enumerate(outcomes) if outcome is not None]
    values = np.array([bool(outcomes[index]) for index in kept], dtype=float)
    names = None if clusters is None else [clusters[index] for index in kept]
    unscored = len(outcomes) - len(kept)
    if not kept:
        return Interval(float("nan"), 0.0, 1.0, 0, 0, unscored, "none")
    if values.min() == values.max():
        works = len(kept) if names is None else len(set(names))
        low, high = wilson(works if values[0] else 0, works, level)
        return Interval(float(values[0]), low, high, len(kept), works, unscored, "wilson")
    found = bootstrap_mean(values, names, level=level, draws=draws, seed=seed)
    return Interval(found.value, found.low, found.high, found.n, found.clusters, unscored, "bootstrap")


def ratio_interval(
    parts: ArrayLike,
    wholes: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Sum of ``parts`` over sum of ``wholes``, each part at most its whole, for instance weighted by how many it stands
    for. Bootstrap over clusters; where that has no width, because there is no part or nothing else, Wilson's interval
    with one observation for each cluster that has a whole. nan where there is no whole.
    """
    above, below = _finite(parts, "parts"), _finite(wholes, "wholes")
    sums, _ = _by_cluster(above, clusters)
    totals, _ = _by_cluster(below, clusters)
    known = int((totals > 0).sum())
    if not known:
        return Interval(float("nan"), 0.0, 1.0, below.size, 0, method="none")
    value = float(above.sum() / below.sum())
    if value in (0.0, 1.0):
        return Interval(value, *wilson(known if value else 0, known, level), below.size, known, method="wilson")
    picked = np.random.default_rng(seed).integers(0, totals.size, size=(draws, totals.size))
    parted, whole = sums[picked].sum(axis=1), totals[picked].sum(axis=1)
    low, high = _percentiles(parted[whole > 0] / whole[whole > 0], level)
    return Interval(value, low, high, below.size, known, method="bootstrap")


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite, and {int((~np.isfinite(array)).sum())} of {array.size} aren't: "
            "leave out what couldn't be scored, and count it."
        )
    return array


def _by_cluster(values: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> tuple[NDArray, NDArray]:
    """Sum and count of the values of each cluster, in order of first appearance."""
    if clusters is None:
        return values, np.ones(values.size)
    if len(clusters) != values.size:
        raise ValueError(f"There are {values.size} values and {len(clusters)} cluster names.")
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([places[name] for name in clusters])
    return np.bincount(index, weights=values), np.bincount(index).astype(float)


def _resampled_means(sums: NDArray, counts: NDArray, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    picked = rng.integers(0, sums.size, size=(draws, sums.size))
    return sums[picked].sum(axis=1) / counts[picked].sum(axis=1)


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
