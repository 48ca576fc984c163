"""Records of an audit -> its figures: rates with intervals, attack curve, gaps to the controls, ladder, utility.

Needs no torch. Every rate has n, the number of works behind it, and how many pictures couldn't be judged; intervals
resample whole works (probes/metrics/statistics.py). A gap is a difference of two such rates; its interval joins theirs:

    low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2),   high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2)

(Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 1998, method
10; Donner and Zou 2012 for any pair of intervals). It doesn't collapse where all of one side is copied and none of the
other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import sqrt
from statistics import median
from typing import Any, TypedDict, Unpack

from probes.metrics.second_opinion import Opinion, opinion, said_by_sscd
from probes.metrics.statistics import Interval, bootstrap_auroc, bootstrap_mean, rate_interval, tpr_at_fpr
from probes.runs.records import Record


class RateRow(TypedDict, total=False):
    """A share of copies with its interval over works.

    Attributes:
        stage: The records' stage.
        group: "members", "nonmembers", "prompts", "works" or another of group_of.
        rung: Nominal exposures, on the ladder.
        exposures: Counted ones, their mean, on the ladder.
        attack_steps: On an attack's curve.
        n: Judged pictures.
        works: Works behind them.
        unscored: Pictures that couldn't be judged.
        copied: How many are copies.
        rate: Their share; with both ends of the interval a float, or None where nothing was judged.
        interval: How it was made.
        median_score: Of the metric that decides.
        by_sscd: What SSCD says of the same pictures; None where it judged none.
    """

    stage: str
    group: str
    rung: int | None
    exposures: float | None
    attack_steps: int
    n: int
    works: int
    unscored: int
    copied: int
    rate: Any
    low: Any
    high: Any
    interval: str
    median_score: float | None
    by_sscd: Opinion | None


class Difference(TypedDict):
    """Of two rates, each value a float; all None where one of them is."""

    gap: Any
    low: Any
    high: Any


class GapRow(Difference):
    """An attack's rate minus its control's."""

    stage: str
    attack_steps: int
    control: str
    n: int
    n_control: int
    unscored: int


class UtilityRow(TypedDict):
    """How well scenes fit their captions before and after, and the paired loss with its interval."""

    alignment_before: float
    alignment_after: float
    loss: float
    low: float
    high: float
    n: int
    scenes: int
    unscored: int


class DetectorRow(TypedDict):
    """How well a detector tells members from non-members; values are None where one side is empty."""

    auroc: float | None
    low: float | None
    high: float | None
    tpr_at_1_fpr: float | None
    n: int
    n_nonmembers: int
    unscored: int


PICTURE_STAGES = ("before", "shielded", "twin", "pruned", "random_pruned", "hardened")
# An attack on members, and the stages that it is compared with.
CONTROLLED = {
    "attacked": ("nonmember_attacked", "twin_attacked"),
    "hardened_attacked": ("hardened_nonmember_attacked", "twin_attacked"),
}
ATTACK_STAGES = ("attacked", "nonmember_attacked", "twin_attacked", "hardened_attacked", "hardened_nonmember_attacked")
# Stages whose records aren't answers to be judged: references, scores alone, and what hardening is trained with.
MATERIAL = ("work", "scan", "benign", "localize", "surrogates", "kept", "then_kept")


def group_of(record: Record) -> str:
    """Which row of a table a record belongs to. A work with no exposures wasn't trained on: a non-member."""
    if record["kind"] == "work":
        return "nonmembers" if record.get("rung") == 0 else "members"
    return {"nonmember": "nonmembers", "prompt": "prompts"}.get(record["kind"], record["kind"] + "s")


def rate_row(records: Sequence[Record], metric: str | None, **labels: Unpack[RateRow]) -> RateRow:
    """One row: share of copies with its interval over works. Without judged pictures rate, low and high are None."""
    copied, items = [record["copied"] for record in records], [record["item"] for record in records]
    rate = rate_interval(copied, items)
    scores = [score for record in records if metric and (score := record["scores"].get(metric)) is not None]
    known = rate.n > 0
    return {
        **labels,
        "n": rate.n,
        "works": rate.clusters,
        "unscored": rate.unscored,
        "copied": sum(one is True for one in copied),
        "rate": rate.value if known else None,
        "low": rate.low if known else None,
        "high": rate.high if known else None,
        "interval": rate.method,
        "median_score": median(scores) if scores else None,
        "by_sscd": opinion(said_by_sscd([record["scores"] for record in records]), copied, items),
    }


def stage_rows(records: Sequence[Record], members: Collection[str], metric: str | None) -> list[RateRow]:
    """A row for each picture stage and group; of the works only those in ``members``, so that stages compare."""
    rows = []
    for stage in PICTURE_STAGES:
        chosen = [
            record
            for record in records
            if record["stage"] == stage and (group_of(record) != "members" or record["item"] in members)
        ]
        for group in dict.fromkeys(map(group_of, chosen)):
            if group != "scenes":
                rows.append(
                    rate_row(
                        [record for record in chosen if group_of(record) == group],
                        metric,
                        stage=stage,
                        group=group,
                        rung=None,
                    )
                )
    return rows


def attack_curve(records: Sequence[Record], metric: str | None) -> list[RateRow]:
    """A row for each attack stage and number of steps, in that order."""
    rows = []
    for stage in ATTACK_STAGES:
        chosen = [record for record in records if record["stage"] == stage]
        group = "nonmembers" if stage.endswith("nonmember_attacked") else "members"
        for steps in sorted({steps for record in chosen if (steps := record["attack_steps"]) is not None}):
            rows.append(
                rate_row(
                    [record for record in chosen if record["attack_steps"] == steps],
                    metric,
                    stage=stage,
                    group=group,
                    attack_steps=steps,
                )
            )
    return rows


def gaps(curve: Sequence[RateRow]) -> list[GapRow]:
    """Members' rate minus each control's at equal steps: the verdict of an attack. None where a side is unjudged."""
    rows = {(row["stage"], row["attack_steps"]): row for row in curve}
    found: list[GapRow] = []
    for stage, controls in CONTROLLED.items():
        for control in controls:
            for steps in [row["attack_steps"] for row in curve if row["stage"] == stage]:
                ours, other = rows[stage, steps], rows.get((control, steps))
                if other is not None:
                    found.append(
                        {
                            "stage": stage,
                            "attack_steps": steps,
                            "control": control,
                            **difference(ours, other),
                            "n": ours["n"],
                            "n_control": other["n"],
                            "unscored": ours["unscored"] + other["unscored"],
                        }
                    )
    return found


def difference(one: RateRow, other: RateRow) -> Difference:
    """Difference of two rates with its interval; see the module's docstring."""
    if one["rate"] is None or other["rate"] is None:
        return {"gap": None, "low": None, "high": None}
    gap = one["rate"] - other["rate"]
    below = sqrt((one["rate"] - one["low"]) ** 2 + (other["high"] - other["rate"]) ** 2)
    above = sqrt((one["high"] - one["rate"]) ** 2 + (other["rate"] - other["low"]) ** 2)
    return {"gap": gap, "low": max(-1.0, gap - below), "high": min(1.0, gap + above)}


def ladder(records: Sequence[Record], metric: str | None) -> list[RateRow]:
    """Replication of stage "before" against exposures: one row for each rung."""
    chosen = [record for record in records if record["stage"] == "before" and record["kind"] == "work"]
    rows: list[RateRow] = []
    for rung in sorted({rung for record in chosen if (rung := record.get("rung")) is not None}):
        of_rung = [record for record in chosen if record.get("rung") == rung]
        exposures = [shown for record in of_rung if (shown := record.get("exposures")) is not None]
        rows.append(
            {
                **rate_row(of_rung, metric, stage="before", group="works", rung=rung),
                "exposures": sum(exposures) / len(exposures) if exposures else None,
            }
        )
    return rows


def detector_figures(records: Iterable[Record], members: Collection[str]) -> dict[str, DetectorRow]:
    """For each detector of stage "scan": AUROC and TPR at 1 % FPR of ``members`` against non-members, if known."""
    scanned = [record for record in records if record["stage"] == "scan"]
    found: dict[str, DetectorRow] = {}
    for name in dict.fromkeys(name for record in scanned for name in record["scores"]):
        scores = [(record, record["scores"].get(name)) for record in scanned]
        ours = [(score, r["item"]) for r, score in scores if r["item"] in members and score is not None]
        theirs = [(score, r["item"]) for r, score in scores if group_of(r) == "nonmembers" and score is not None]
        (ones, items), (others, strangers) = (zip(*side, strict=True) if side else ((), ()) for side in (ours, theirs))
        area, known = bootstrap_auroc(ones, others, items, strangers), bool(ones and others)
        found[name] = {
            "auroc": area.value if known else None,
            "low": area.low if known else None,
            "high": area.high if known else None,
            "tpr_at_1_fpr": tpr_at_fpr(ones, others, 0.01)[0] if known else None,
            "n": len(ones),
            "n_nonmembers": len(others),
            "unscored": sum(score is None for _, score in scores),
        }
    return found


def utility(records: Sequence[Record], stage: str = "pruned") -> UtilityRow | None:
    """Alignment of benign scenes before and at ``stage``, and the mean paired loss with its interval."""
    found: dict[str, dict[tuple[str, int | None], float]] = {"before": {}, stage: {}}
    for record in records:
        score = record["scores"].get("alignment")
        if record["kind"] == "scene" and record["stage"] in found and score is not None:
            found[record["stage"]][record["item"], record["seed"]] = score
    pairs = [key for key in found["before"] if key in found[stage]]
    if not pairs:
        return None
    losses = [found["before"][key] - found[stage][key] for key in pairs]
    loss: Interval = bootstrap_mean(losses, [item for item, _ in pairs])
    return {
        "alignment_before": sum(found["before"][key] for key in pairs) / len(pairs),
        "alignment_after": sum(found[stage][key] for key in pairs) / len(pairs),
        "loss": loss.value,
        "low": loss.low,
        "high": loss.high,
        "n": loss.n,
        "scenes": loss.clusters,
        "unscored": _unscored(records, stage),
    }


def _unscored(records: Sequence[Record], stage: str) -> int:
    return sum(
        record["scores"].get("alignment") is None
        for record in records
        if record["kind"] == "scene" and record["stage"] in ("before", stage)
    )
