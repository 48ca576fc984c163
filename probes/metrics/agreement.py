"""Do a prompt's pictures agree over seeds? Evidence of memorization that needs no reference picture.

A memorized prompt brings out the same picture from any noise (Carlini et al., "Extracting Training Data from Diffusion
Models", USENIX Security 2023, arXiv 2301.13188, who look for cliques of near-duplicates among 500 pictures of a
prompt). Near is what no two pictures of different benign prompts come near to: half as far as the nearest two. Some
prompts leave little room without any memory (a plain color), so the same is counted for benign prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from probes.metrics.copies import Metric, TiledL2
from probes.metrics.judge import calibrate
from probes.metrics.statistics import wilson

Pictures = Mapping[str, Sequence[Image.Image]]


def agreement(own: Pictures, benign: Pictures, metric: Metric | None = None) -> dict[str, Any]:
    """How many prompts have near-duplicates among their pictures.

    Args:
        own: Pictures of each prompt, by its id, of the same seeds for all.
        benign: The same of benign prompts, three at least.
        metric: How alike two pictures are; by default tiled L2, the worst tile's difference.

    Returns:
        ``metric``, ``threshold``; ``own`` and ``benign``: agreeing, n, rate, low, high (Wilson, over prompts);
        ``gap`` between the two rates with ``low`` and ``high`` (Newcombe); ``prompts``: for each of ``own`` its item,
        share (of pairs that are near-duplicates), pairs, nearest (the most alike pair's score) and p, the share of
        benign prompts and itself that agree as much; by falling share, then by nearest.

    Raises:
        NotCalibratedError: Fewer than three benign prompts with pictures.
    """
    metric = metric or TiledL2()
    limit = calibrate(metric, [pictures[0] for pictures in benign.values() if pictures], source="benign prompts")
    rows = {item: _row(item, pictures, metric, limit.threshold) for item, pictures in own.items()}
    others = [_row(item, pictures, metric, limit.threshold) for item, pictures in benign.items()]
    shares = np.array([row["share"] for row in others if row["share"] is not None])
    for row in rows.values():
        as_much = None if row["share"] is None else int((shares >= row["share"]).sum())
        row["p"] = None if as_much is None else (1 + as_much) / (1 + len(shares))
    sign = -1.0 if metric.higher_is_copy else 1.0
    known = [row for row in rows.values() if row["share"] is not None]
    ours, theirs = _rate(known), _rate([row for row in others if row["share"] is not None])
    return {
        "metric": metric.name,
        "threshold": limit.threshold,
        "own": ours,
        "benign": theirs,
        **_gap(ours, theirs),
        "prompts": sorted(known, key=lambda row: (-row["share"], sign * row["nearest"])),
    }


def _row(item: str, pictures: Sequence[Image.Image], metric: Metric, threshold: float) -> dict[str, Any]:
    pairs = list(combinations(range(len(pictures)), 2))
    if not pairs:
        return {"item": item, "share": None, "pairs": 0, "nearest": None}
    features = metric.features(list(pictures))
    first, second = np.array(pairs).T
    scores: NDArray[np.float64] = metric.compare(features[first], features[second])
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return {"item": item, "share": None, "pairs": 0, "nearest": None}
    near = scores > threshold if metric.higher_is_copy else scores < threshold
    nearest = scores.max() if metric.higher_is_copy else scores.min()
    return {"item": item, "share": float(near.mean()), "pairs": int(scores.size), "nearest": float(nearest)}


def _rate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    agreeing, n = sum(row["share"] > 0 for row in rows), len(rows)
    low, high = wilson(agreeing, n)
    return {"agreeing": agreeing, "n": n, "rate": agreeing / n if n else None, "low": low, "high": high}


def _gap(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float | None]:
    """The difference of two independent rates with Newcombe's interval (Statistics in Medicine 1998, method 10)."""
    if ours["rate"] is None or theirs["rate"] is None:
        return {"gap": None, "low": None, "high": None}
    gap = ours["rate"] - theirs["rate"]
    below = sqrt((ours["rate"] - ours["low"]) ** 2 + (theirs["high"] - theirs["rate"]) ** 2)
    above = sqrt((ours["high"] - ours["rate"]) ** 2 + (theirs["rate"] - theirs["low"]) ** 2)
    return {"gap": gap, "low": gap - below, "high": gap + above}
