"""summary.json: every verb's figures in one layout, which the report and the pages read. Made here alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from probes.errors import RunError
from probes.report.drift import DriftRow
from probes.report.figures import (
    DetectorRow,
    GapRow,
    RateRow,
    UtilityRow,
    attack_curve,
    gaps,
    ladder,
    stage_rows,
    utility,
)
from probes.runs.folder import Run
from probes.runs.records import Record
from shield.errors import reason_of

FORMAT = 1


class CostRow(TypedDict):
    """What a stage took: seconds, and denoiser calls per image, summed; None where they weren't counted."""

    stage: str
    status: str
    seconds: Any
    evaluations: Any


class Measured(TypedDict):
    """What every summary of pictures holds.

    Attributes:
        format: FORMAT.
        model: What the model was called.
        model_sha256: Its fingerprint.
        criterion: How copies are told; empty where they can't be.
        rows: Of picture stages, by group "members", "nonmembers" or "prompts"; intervals over whole works.
        curve: As rows, with attack_steps; stage is one of figures.ATTACK_STAGES.
        gaps: Members' rate minus the control's.
        ladder: Rows of stage "before" by rung.
        utility: Benign scenes before and after pruning.
        mask: Of the located or given mask: density, weights, densities, and where it comes from; empty without one.
        cost: Of each stage: stage, status, seconds, evaluations.
        limits: Sentences: what couldn't be judged or was left out, and why.
    """

    format: int
    model: str
    model_sha256: str | None
    criterion: dict[str, Any]
    rows: list[RateRow]
    curve: list[RateRow]
    gaps: list[GapRow]
    ladder: list[RateRow]
    utility: UtilityRow | None
    mask: dict[str, Any]
    cost: list[CostRow]
    limits: list[str]


class Added(TypedDict, total=False):
    """What single verbs add.

    Attributes:
        quick: Whether the audit was a small one.
        detector: For each detector how well it tells members from non-members.
        drift: How far pictures of scenes and non-members moved.
        hardening: hardener, works, dev, keep, epochs, checks ..., utility (as above), drift.
        verdicts: Of an attack and a hardening: sentences on the gaps.
        attack: The method, where it isn't the usual one.
        ladder_of_paraphrases: Of paraphrases: one row a level.
        saved: Where a checkpoint was written.
        scores: Of prune: each detector's change. Of scan: each detector's spread.
        tradeoff: Of prune: a point for each k.
        resurgence: Of prune and harden: a row for each number of updates on ordinary captions afterwards: updates;
            caption, caption_nonmembers, attacked and attacked_nonmembers as rows; gap, as in gaps.
        locality: Of locality: embeddings, activations, masks, searches.
        threshold, flagged, cleared, undecided, highest, early_exit: Of scan.
        calibration: Of scan: where the threshold comes from: fpr, negatives, prompts, source, interval.
        calibrate: Of scan without a threshold: the command that makes one.
        flagged_prompts: Of scan: the highest of flagged_count flagged prompts: item, prompt, score, threshold,
            flagged_noises, noises, words, columns; flagged_listed of them are in flagged.csv. words_why: why one has no
            words.
        named: Of scan: prompts, those named, concepts -> prompts, and the first rows of named.csv.
        protected_pictures: Of scan with a gallery: pictures, works, copy, near, and the first rows of gallery.csv.
        prevalence: Of scan: value, low, high; and flagged, fpr and tpr with value, low, high and source.
        agreement: Pictures over seeds; see probes/scan/agreement.py.
    """

    quick: bool
    detector: dict[str, DetectorRow]
    drift: list[DriftRow]
    hardening: dict[str, Any] | None
    verdicts: list[str]
    attack: str
    ladder_of_paraphrases: list[dict[str, Any]]
    saved: str | None
    scores: Any
    tradeoff: list[dict[str, Any]]
    resurgence: list[dict[str, Any]]
    locality: dict[str, Any] | None
    threshold: float | None
    flagged: int
    cleared: int
    undecided: int
    highest: list[dict[str, Any]]
    early_exit: dict[str, Any] | None
    calibration: dict[str, Any] | None
    calibrate: str
    flagged_prompts: list[dict[str, Any]]
    flagged_count: int
    flagged_listed: int
    words_why: str | None
    named: dict[str, Any]
    protected_pictures: dict[str, Any]
    prevalence: dict[str, Any] | None
    agreement: dict[str, Any] | None


class Summary(Measured, Added):
    """What a verb writes."""


class StoredSummary(Summary):
    """A summary as it is read back: what a verb doesn't write is there and empty.

    Attributes:
        pruned: Whether weights were pruned before an attack.
    """

    pruned: bool


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
        "cost": [cost_row(entry) for entry in stages],
        "limits": list(limits),
    }


def cost_row(entry: Mapping[str, Any]) -> CostRow:
    """What an entry of stages.json took."""
    return {
        "stage": entry["stage"],
        "status": entry["status"],
        "seconds": entry.get("seconds"),
        "evaluations": entry.get("evaluations"),
    }


# What a page of a verb that doesn't write it shows.
ABSENT: Summary = {
    "format": FORMAT,
    "model": "",
    "model_sha256": None,
    "rows": [],
    "curve": [],
    "gaps": [],
    "ladder": [],
    "cost": [],
    "limits": [],
    "criterion": {},
    "detector": {},
    "mask": {},
    "utility": None,
    "tradeoff": [],
    "resurgence": [],
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


def stored_summary(run: Run, records: Sequence[Record]) -> StoredSummary:
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
        raise RunError(f"{path} can't be read: {reason_of(error)}") from error
