"""Means over pairs of things, such as distances within works, with their intervals.

Pairs share members, so they aren't independent. The bootstrap resamples works, and in each its members; a pair of two
copies of the same member isn't counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000


def mean_of_pairs(blocks: Sequence[NDArray[np.float64]], *, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Mean of all pairs within blocks (n, n), symmetric; nan is a pair without a value.

    ``n`` counts members of all blocks, ``pairs`` those with a value, ``unscored`` those without. ``value`` is None
    without any pair, ``low`` and ``high`` also with fewer than three: too few to resample.
    """
    blocks = [np.asarray(block, dtype=np.float64) for block in blocks if len(block) > 1]
    sums, counts = _resampled(blocks, [np.ones((1, len(block))) for block in blocks])
    found: dict[str, Any] = {
        "value": None,
        "low": None,
        "high": None,
        "n": sum(map(len, blocks)),
        "blocks": len(blocks),
        "pairs": int(counts.sum() / 2),
        "unscored": sum(int(np.isnan(block[np.triu_indices(len(block), 1)]).sum()) for block in blocks),
    }
    if not found["pairs"]:
        return found
    found["value"] = float(sums.sum() / counts.sum())
    if found["pairs"] < 3:
        return found
    draw = np.random.default_rng(seed)
    picked = [draw.multinomial(len(block), np.full(len(block), 1 / len(block)), size=DRAWS) for block in blocks]
    totals, numbers = _resampled(blocks, picked)
    often = draw.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=DRAWS).T
    total, number = (often * totals).sum(axis=0), (often * numbers).sum(axis=0)
    means = total[number > 0] / number[number > 0]
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return {**found, "low": float(low), "high": float(high)}


def _resampled(blocks: Sequence[NDArray], picked: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """(blocks, draws) sums and numbers of pairs, where ``picked`` (draws, n) says how often each member was drawn."""
    sums, numbers = [], []
    for block, often in zip(blocks, picked, strict=True):
        known = ~np.isnan(block) & ~np.eye(len(block), dtype=bool)
        values = np.where(known, block, 0.0)
        sums.append(((often @ values) * often).sum(axis=1))
        numbers.append(((often @ known.astype(float)) * often).sum(axis=1))
    return np.array(sums, dtype=float), np.array(numbers, dtype=float)
