"""Drift: how far pictures moved from those of the original model with the same prompt and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from probes.metrics.copies import pixels
from probes.metrics.statistics import bootstrap_mean
from probes.report.figures import group_of
from probes.runs.records import Record
from shield.protected.pictures import open_image

# Side of the pictures that are compared: enough to see what changed, blind to single pixels.
SIDE = 64


class DriftRow(TypedDict):
    """How far a group's pictures moved, with its interval over works; ``seeds`` is the yardstick."""

    stage: str
    group: str
    value: float
    low: float
    high: float
    n: int
    works: int
    unscored: int
    seeds: float | None


def drift(folder: Path, records: Sequence[Record], stage: str) -> list[DriftRow]:
    """How far pictures moved from the original's with the same prompt and seed: root-mean-square difference, 0 to 1.

    ``seeds`` is the same distance between two seeds of one prompt on the original: what a wholly other picture gives;
    None with one seed. Works are left out: moving those is the purpose.
    """
    before = {(r["item"], r["seed"]): name for r in records if r["stage"] == "before" and (name := r["picture"])}
    rows: list[DriftRow] = []
    for group in ("scenes", "nonmembers"):
        drawn = [r for r in records if r["stage"] == stage and group_of(r) == group]
        moved = {key: name for r in drawn if (key := (r["item"], r["seed"])) in before and (name := r["picture"])}
        if not moved:
            continue
        ours = [before[key] for key in moved]
        change = bootstrap_mean(_distances(folder, list(moved.values()), ours), [item for item, _ in moved])
        keys = list(moved)
        pairs = [(before[one], before[two]) for one, two in zip(keys, keys[1:], strict=False) if one[0] == two[0]]
        apart = _distances(folder, [one for one, _ in pairs], [two for _, two in pairs]) if pairs else None
        rows.append(
            {
                "stage": stage,
                "group": group,
                "value": change.value,
                "low": change.low,
                "high": change.high,
                "n": change.n,
                "works": change.clusters,
                "unscored": len(drawn) - len(moved),
                "seeds": None if apart is None else float(np.mean(apart)),
            }
        )
    return rows


def _distances(folder: Path, ones: Sequence[str], others: Sequence[str]) -> list[float]:
    return [_distance(folder, one, other) for one, other in zip(ones, others, strict=True)]


def _distance(folder: Path, one: str, other: str) -> float:
    both = pixels([open_image(folder / name) for name in (one, other)], SIDE)
    return float(np.sqrt(np.square(both[0] - both[1]).mean()))
