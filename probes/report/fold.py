"""What a report shows first: telling pictures, findings with their evidence, stages as a flow, a scan's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.report.reported_run import Finding, ReportedRun
from probes.report.sheets import cell_of, thumbnail
from probes.report.summary import StoredSummary
from probes.report.wording import FLOW, STAGES
from probes.runs.records import Record

CARDS = 3
BINS = 40
# What stands beside a telling picture, where the run has it for the same work and seed.
BESIDE = ("before", "shielded", "pruned", "hardened", "twin")
WIDTH = 3
SHORT = {"work": "the work", "before": "drawn", "shielded": "shielded"}


def cards(folder: Path, found: ReportedRun, head: Finding) -> list[dict[str, Any]]:
    """The headline's most telling pictures, each work once: the original, what was drawn, and what stands beside."""
    works = {record["item"]: record for record in found.records if record["stage"] == "work"}
    drawn = {(r["item"], r["seed"], r["stage"]): r for r in found.records if r["picture"] and not r.get("attack_steps")}
    shown: dict[str, dict[str, Any]] = {}
    for record in head.evidence:
        if record["item"] not in shown and len(shown) < CARDS:
            beside = [drawn.get((record["item"], record["seed"], stage)) for stage in BESIDE]
            more = [one for one in beside if one is not None and one["stage"] != record["stage"]]
            row = [works.get(record["item"]), record, *more]
            cells = [_titled(folder, one, found) for one in row if one is not None][:WIDTH]
            shown[record["item"]] = {"item": record["item"], "prompt": record["prompt"] or "", "cells": cells}
    return list(shown.values())


def _titled(folder: Path, record: Record, found: ReportedRun) -> dict[str, Any]:
    label = SHORT.get(record["stage"]) or STAGES.get(record["stage"], record["stage"])
    return {**cell_of(folder, record, found.grading), "label": label}


def listed(folder: Path, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as the page and report.json list them, each with its first picture."""
    return [
        {
            "key": one.key,
            "severity": one.severity,
            "title": one.title,
            "detail": one.detail,
            "row": one.row,
            "next": one.next,
            "src": next((src for r in one.evidence[:3] if (src := thumbnail(folder, r["picture"]))), None),
        }
        for one in found
    ]


def flow(stages: Iterable[Mapping[str, Any]], figures: StoredSummary) -> list[dict[str, Any]]:
    """Stages in their order: what each does, how it ended, and the share of copies that it gave."""
    rows = [row for row in figures["rows"] if row["group"] in ("members", "prompts") and row["rate"] is not None]
    rates = {row["stage"]: row for row in reversed(rows)}
    for row in figures["curve"]:
        if row["rate"] is not None:
            rates[row["stage"]] = row  # the last one has the most steps
    return [
        {
            "label": FLOW.get(stage["stage"], stage["stage"]),
            "status": stage["status"],
            "why": stage.get("why"),
            "seconds": stage.get("seconds") if isinstance(stage.get("seconds"), int | float) else None,
            "rate": rates.get(stage["stage"]),
        }
        for stage in stages
    ]


def scan_tables(folder: Path, figures: StoredSummary, records: Sequence[Record]) -> dict[str, Any] | None:
    """A scan's scores: a histogram of the detector that flags, its threshold, and the prompts that score highest."""
    if figures.get("highest") is None or not isinstance(figures["scores"], Mapping) or not figures["scores"]:
        return None
    detector = next(iter(figures["scores"]))
    scored = [r for r in records if r["stage"] != "work" and r["scores"].get(detector) is not None]
    pictures = {r["item"]: thumbnail(folder, r["picture"]) for r in reversed(scored) if r["picture"]} if scored else {}
    flagged = {r["item"] for r in scored if r.get("flagged")}
    top = [{**row, "src": pictures.get(row["item"]), "flagged": row["item"] in flagged} for row in figures["highest"]]
    scores = [(value, bool(r.get("flagged"))) for r in scored if (value := r["scores"][detector]) is not None]
    return {"detector": detector, "highest": top, **_histogram(scores, figures.get("threshold"))}


def _histogram(scores: Sequence[tuple[float, bool]], threshold: float | None) -> dict[str, Any]:
    """Bars in percent of the highest one, which of them hold flagged scores, and where the threshold stands."""
    if not scores:
        return {"bars": [], "low": None, "high": None, "threshold": threshold, "at": None}
    marks = [value for value, _ in scores] + ([] if threshold is None else [threshold])
    low, high = min(marks), max(marks)
    span = (high - low) or 1.0
    counts, flagged = [0] * BINS, [0] * BINS
    for value, over in scores:
        place = min(int((value - low) / span * BINS), BINS - 1)
        counts[place] += 1
        flagged[place] += over
    bars = [
        {"height": round(100 * count / max(counts), 1), "above": 2 * over > count}
        for count, over in zip(counts, flagged, strict=True)
    ]
    at = None if threshold is None else round(100 * (threshold - low) / span, 1)
    return {"bars": bars, "low": low, "high": high, "threshold": threshold, "at": at}
