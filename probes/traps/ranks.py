"""Exact p-values by rank: is what was used more familiar to a model than what was made alike and never used?

Null hypothesis: the model saw none of the traps. Then the n used and the m held-back traps are exchangeable, because a
random draw split them, and every set of n of the n + m values is equally likely to be that of the used ones.

One trap (Besag and Clifford, "Sequential Monte Carlo p-values", Biometrika 1991; Barnard 1963), lower = more familiar:

    p = (1 + #{held-back values <= its value}) / (m + 1)

A rung, with R the sum of the used traps' midranks among all n + m values (Wilcoxon's rank sum):

    p = #{sets of n of the n + m midranks whose sum is <= R} / C(n + m, n)

counted exactly, ties included, so P(p <= a) <= a for every a and every score. Above EXACT values the sets are drawn
instead, and p = (1 + #{drawn sums <= R}) / (1 + draws), which is as valid (Besag and Clifford).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

EXACT = 200
DRAWS = 20_000


def single_p(value: float, held_back: Sequence[float]) -> float:
    """p of one used trap; at least 1 / (m + 1). ValueError for values that aren't finite."""
    values = _finite([value, *held_back])
    return float((1 + (values[1:] <= values[0]).sum()) / len(values))


def rank_p(used: Sequence[float], held_back: Sequence[float], *, exact: int = EXACT, seed: int = 0) -> float:
    """p of several used traps, one-sided: small if their values are low. At least 1 / C(n + m, n).

    ValueError if a side is empty or a value isn't finite.
    """
    if not len(used) or not len(held_back):
        raise ValueError(f"A rank test needs values on both sides, not {len(used)} and {len(held_back)}.")
    ranks = np.rint(2 * rankdata(_finite([*used, *held_back]))).astype(int)  # doubled, so that midranks are whole
    n, total = len(used), int(ranks[: len(used)].sum())
    if len(ranks) > exact:
        draw = np.random.default_rng(seed)
        below = sum(int(draw.permutation(ranks)[:n].sum() <= total) for _ in range(DRAWS))
        return (1 + below) / (1 + DRAWS)
    return float(_sums(ranks, n)[: total + 1].sum() / comb(len(ranks), n))


def _sums(ranks: NDArray[np.int_], n: int) -> NDArray[np.float64]:
    """How many sets of n of the ranks have each sum, by adding one rank at a time."""
    highest = int(np.sort(ranks)[-n:].sum())
    counts = np.zeros((n + 1, highest + 1))
    counts[0, 0] = 1
    for rank in ranks:
        counts[1:, rank:] += counts[:-1, : highest + 1 - rank].copy()
    return counts[n]


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError("A rank test needs finite values.")
    return array
