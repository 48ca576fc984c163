"""summary.json: every verb's figures in one layout, which the report and the pages read. Made here alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from probes.errors import RunError
from probes.report.figures import Row, attack_curve, gaps, ladder, stage_rows, utility
from probes.runs.folder import Run
from probes.runs.records import Record

FORMAT = 1
COST = ("stage", "status", "seconds", "evaluations")


class Measured(TypedDict):
    """What every summary of pictures holds.

    Attributes:
        format: FORMAT.
        model: What the model was called.
        model_sha256: Its fingerprint.
        criterion: How copies are told; empty where they can't be.
        rows: stage, group ("members" | "nonmembers" | "prompts"), rung, n, works, unscored, copied, rate, low, high,
            interval, median_score; intervals over whole works.
        curve: As rows, with attack_steps; stage is one of figures.ATTACK_STAGES.
        gaps: Members' rate minus the control's: stage, attack_steps, control, gap, low, high, n, n_control, unscored.
        ladder: Rows of stage "before" by rung.
        utility: Benign scenes before and after pruning: alignment_before, alignment_after, loss, low, high, n, scenes,
            unscored.
        mask: Of the located or given mask: density, weights, densities, and where it comes from; empty without one.
        cost: Of each stage: stage, status, seconds, evaluations.
        limits: Sentences: what couldn't be judged or was left out, and why.
    """

    format: int
    model: str
    model_sha256: str | None
    criterion: dict[str, Any]
    rows: list[Row]
    curve: list[Row]
    gaps: list[Row]
    ladder: list[Row]
    utility: Row | None
    mask: dict[str, Any]
    cost: list[Row]
    limits: list[str]


class Summary(Measured, total=False):
    """And what single verbs add.

    Attributes:
        quick: Whether the audit was a small one.
        detector: For each detector: auroc, low, high, tpr_at_1_fpr, n, n_nonmembers, unscored.
        drift: stage, group, value, low, high, n, works, unscored, seeds; see probes/report/drift.py.
        hardening: hardener, works, dev, keep, epochs, checks ..., utility (as above), drift.
        verdicts: Of an attack and a hardening: sentences on the gaps.
        attack: The method, where it isn't the usual one.
        ladder_of_paraphrases: Of paraphrases: one row a level.
        saved: Where a checkpoint was written.
        scores: Of prune: each detector's change. Of scan: each detector's spread.
        tradeoff: Of prune: a point for each k.
        locality: Of locality: embeddings, activations, masks, searches.
        threshold, flagged, cleared, undecided, highest, early_exit: Of scan.
        calibration: Of scan: where the threshold comes from: fpr, negatives, prompts, source, interval.
        calibrate: Of scan without a threshold: the command that makes one.
        flagged_prompts: Of scan: the highest of flagged_count flagged prompts: item, prompt, score, threshold,
            flagged_noises, noises, words, columns; flagged_listed of them are in flagged.csv. words_why: why one has no
            words.
        prevalence: Of scan: value, low, high; and flagged, fpr and tpr with value, low, high and source.
        agreement: Pictures over seeds; see probes/scan/agreement.py.
    """

    quick: bool
    detector: dict[str, Row]
    drift: list[Row]
    hardening: dict[str, Any] | None
    verdicts: list[str]
    attack: str
    ladder_of_paraphrases: list[Row]
    saved: str | None
    scores: Any
    tradeoff: list[Row]
    locality: dict[str, Any]
    threshold: float | None
    flagged: int
    cleared: int
    undecided: int
    highest: list[Row]
    early_exit: dict[str, Any] | None
    calibration: dict[str, Any] | None
    calibrate: str
    flagged_prompts: list[Row]
    flagged_count: int
    flagged_listed: int
    words_why: str | None
    prevalence: dict[str, Any] | None
    agreement: dict[str, Any] | None


def summary_of(
    run: Run,
    records: Sequence[Record],
    stages: Iterable[Mapping[str, Any]],
    *,
    members: Collection[str],
    metric: str | None,
    criterion: Mapping[str, Any],
    limits: Iterable[str],
) -> Measured:
    """The figures of a run's records.

    Args:
        run: Where they come from.
        records: Those that count.
        stages: Entries of stages.json.
        members: Ids of the works that are judged.
        metric: The score that copies are told by, if any.
        criterion: Its description.
        limits: What couldn't be judged.
    """
    curve = attack_curve(records, metric)
    return {
        "format": FORMAT,
        "model": run.about["model"].get("name", ""),
        "model_sha256": run.about["model"].get("sha256"),
        "criterion": dict(criterion),
        "rows": stage_rows(records, members, metric),
        "curve": curve,
        "gaps": gaps(curve),
        "ladder": ladder(records, metric),
        "utility": utility(records),
        "mask": {},
        "cost": [{key: entry.get(key) for key in COST} for entry in stages],
        "limits": list(limits),
    }


# What a page of a verb that doesn't write it shows.
ABSENT: dict[str, Any] = {
    "rows": [],
    "curve": [],
    "gaps": [],
    "ladder": [],
    "limits": [],
    "criterion": {},
    "detector": {},
    "mask": {},
    "utility": None,
    "model": None,
    "tradeoff": [],
    "drift": [],
    "scores": [],
    "hardening": None,
    "locality": None,
    "flagged_prompts": [],
    "flagged_count": 0,
    "highest": [],
    "threshold": None,
    "calibration": None,
    "prevalence": None,
    "agreement": None,
}


def stored_summary(run: Run, records: Sequence[Record]) -> dict[str, Any]:
    """The run's summary.json, or the same tables from its records where there is none (a run that was stopped)."""
    stored = read_json(run.folder / "summary.json")
    if stored is None:
        held = f"these figures are from the {len(records)} records it holds."
        before = {record["item"] for record in records if record["stage"] == "before"}
        metric = deciding_metric({}, records)
        stored = summary_of(
            run,
            records,
            (),
            members=before,
            metric=metric,
            criterion={},
            limits=[f"The run ({run.status}) has written no summary: {held}"],
        )
    return {
        **ABSENT,
        **stored,
        "criterion": stored.get("criterion") or {},
        "pruned": run.about.get("kind") != "attack" or run.config.get("mask") is not None,
        "attack": str(run.config.get("attack") or "adversarial_embedding"),
    }


def deciding_metric(criterion: Mapping[str, Any], records: Sequence[Record]) -> str | None:
    """Name of the copy metric whose verdict counts: as the criterion says, else the first score of a judged record."""
    if criterion.get("decides"):
        return criterion["decides"]
    judged = next((r for r in records if r.get("copied") is not None and r.get("scores")), None)
    return next(iter(judged["scores"])) if judged else None


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} can't be read: {error}") from error
