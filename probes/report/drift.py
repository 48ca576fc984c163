"""Drift: how far pictures moved from those of the original model with the same prompt and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probes.metrics.copies import pixels
from probes.metrics.statistics import bootstrap_mean
from probes.report.figures import group_of
from probes.runs.records import Record
from shield.protected.pictures import open_image

# Side of the pictures that are compared: enough to see what changed, blind to single pixels.
SIDE = 64


def drift(folder: Path, records: Sequence[Record], stage: str) -> list[dict[str, Any]]:
    """How far pictures moved from the original's with the same prompt and seed: root-mean-square difference, 0 to 1.

    ``seeds`` is the same distance between two seeds of one prompt on the original: what a wholly other picture gives;
    None with one seed. Works are left out: moving those is the purpose.
    """
    before = {(r["item"], r["seed"]): r for r in records if r["stage"] == "before" and r["picture"]}
    rows = []
    for group in ("scenes", "nonmembers"):
        drawn = [r for r in records if r["stage"] == stage and group_of(r) == group]
        moved = [r for r in drawn if r["picture"] and (r["item"], r["seed"]) in before]
        if not moved:
            continue
        ours = [before[r["item"], r["seed"]] for r in moved]
        change = bootstrap_mean(_distances(folder, moved, ours), [r["item"] for r in moved])
        pairs = [(one, two) for one, two in zip(ours, ours[1:], strict=False) if one["item"] == two["item"]]
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


def _distances(folder: Path, ones: Sequence[Record], others: Sequence[Record]) -> list[float]:
    return [_distance(folder, one, other) for one, other in zip(ones, others, strict=True)]


def _distance(folder: Path, one: Record, other: Record) -> float:
    both = pixels([open_image(folder / record["picture"]) for record in (one, other)], SIDE)
    return float(np.sqrt(np.square(both[0] - both[1]).mean()))
