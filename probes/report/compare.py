"""Two runs side by side, such as before and after a release: rates with their difference, and pictures that changed.

Only prompts that both runs asked for are compared. The runs are taken as independent samples (figures.difference),
which is wide where they share seeds. What else differs between them is said first: a difference in copies counts only
where the same was asked in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.report.figures import PICTURE_STAGES, RateRow, difference, group_of, stage_rows
from probes.report.grades import Grading
from probes.report.html import NAMES, environment, found_of, read_run, write_page
from probes.report.sentences import percent, share
from probes.report.sheets import cell_of
from probes.report.summary import StoredSummary, deciding_metric
from probes.report.wording import GROUPS, STAGES
from probes.runs.folder import Run
from probes.runs.records import Record

SHOWN = 24


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run: Run
    records: Sequence[Record]
    figures: StoredSummary

    @classmethod
    def of(cls, folder: Path | str) -> Side:
        return cls(*read_run(folder))

    @property
    def name(self) -> str:
        return self.run.folder.resolve().name

    def asked(self) -> set[tuple[str, str]]:
        """Stage and prompt of every picture that the run's own rows count."""
        members = found_of(self.run, self.figures, self.records).members
        counted = [r for r in self.records if group_of(r) != "members" or r["item"] in members]
        return {(r["stage"], r["prompt"]) for r in counted if r["stage"] in PICTURE_STAGES and r["prompt"]}

    def rows(self, other: Side) -> list[RateRow]:
        """Rates of the prompts that both runs asked for at the same stage."""
        both = self.asked() & other.asked()
        records = [r for r in self.records if (r["stage"], r["prompt"]) in both]
        return stage_rows(records, {r["item"] for r in records}, deciding_metric(self.figures["criterion"], records))


def compare(before: Path | str, after: Path | str) -> tuple[Side, Side, dict[str, Any]]:
    """Both runs and how they differ: severity, title, detail, rows, differing. RunError if one is no run."""
    one, other = Side.of(before), Side.of(after)
    found = {(row["stage"], row["group"]): row for row in one.rows(other)}
    rows = [
        {"stage": row["stage"], "group": row["group"], "before": was, "after": row, **difference(row, was)}
        for row in other.rows(one)
        if (was := found.get((row["stage"], row["group"]))) is not None
    ]
    told = [_told(row) for row in rows if row["group"] in ("members", "prompts") and row["gap"] is not None]
    head = next(iter(told), None) or {
        "severity": "unknown",
        "title": f"Can't compare {one.name} with {other.name}",
        "detail": "They share no stage in which pictures of works or prompts were judged.",
    }
    return one, other, {**head, "rows": rows, "differing": _differing(one, other)}


def _told(row: Mapping[str, Any]) -> dict[str, str]:
    """What a difference in one stage says."""
    before, after = row["before"], row["after"]
    way = "Fewer" if row["high"] < 0 else "More" if row["low"] > 0 else None
    stage = "" if row["stage"] == "before" else f", stage {STAGES.get(row['stage'], row['stage'])}"
    title = (
        f"{way} copies after than before: {percent(before['rate'])}% to {percent(after['rate'])}%{stage}"
        if way
        else f"Can't say whether copies changed: {percent(before['rate'])}% to {percent(after['rate'])}%{stage}"
    )
    return {
        "severity": {"Fewer": "good", "More": "high", None: "unknown"}[way],
        "title": title,
        "detail": f"Before {share(before)}, after {share(after)}: {format_gap(row)}.",
    }


def format_gap(row: Mapping[str, Any]) -> str:
    """A difference in percentage points with its interval."""
    if row["gap"] is None:
        return "not judged"
    return f"{100 * row['gap']:+.0f} points (95% interval {100 * row['low']:+.0f} to {100 * row['high']:+.0f})"


def _differing(one: Side, other: Side) -> list[str]:
    """Sentences on what was asked or judged in another way."""
    kinds = (one.run.about["kind"], other.run.about["kind"])
    ours, others = ({prompt for _, prompt in side.asked()} for side in (one, other))
    alone = len(ours - others), len(others - ours)
    said = [] if kinds[0] == kinds[1] else [f"The runs are of different kinds: {kinds[0]} and {kinds[1]}."]
    same_inputs = [[given["sha256"] for given in side.run.about["inputs"]] for side in (one, other)]
    if same_inputs[0] != same_inputs[1]:
        said.append("They were given different prompt files.")
    if any(alone):
        said.append(f"Left out, as the other run didn't ask for them: {alone[0]} prompts before, {alone[1]} after.")
    if one.run.about["seeds"] != other.run.about["seeds"]:
        said.append("They drew with different seeds.")
    if _limits(one) != _limits(other):
        said.append("Copies were told by different criteria or thresholds.")
    mine, theirs = one.run.config, other.run.config
    options = sorted(key for key in {*mine, *theirs} - {"model"} if mine.get(key) != theirs.get(key))
    return [*said, f"Options that differ: {', '.join(options)}."] if options else said


def _limits(side: Side) -> dict[str, Any]:
    metrics = side.figures["criterion"].get("metrics", {})
    return {name: (one.get("threshold"), one.get("preprocessing")) for name, one in metrics.items()}


def page_of(before: Path, after: Path) -> Path:
    """Where the page goes unless something else is asked for: beside the later run, named after both."""
    return after.parent / f"compare-{before.resolve().name}-{after.resolve().name}.html"


def write_comparison(one: Side, other: Side, found: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a comparison. RunError if it can't be written."""
    names = [one.run.about["model"].get("name") or one.name, other.run.about["model"].get("name") or other.name]
    page = (
        environment()
        .get_template("compare.html.jinja")
        .render(
            one=one, other=other, found=found, models=names, pairs=_pairs(one, other), format_gap=format_gap, **NAMES
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, page)
    return path


def _pairs(one: Side, other: Side) -> list[dict[str, Any]]:
    """Pictures of one prompt and seed from both runs beside the work; those whose verdict changed come first."""
    works = {r["item"]: (side, r) for side in (other, one) for r in side.records if r["stage"] == "work"}
    was = {(r["prompt"], r["seed"], r["kind"]): r for r in one.records if r["stage"] == "before" and r["picture"]}
    pairs = [
        (was[key], r)
        for r in other.records
        if r["stage"] == "before" and r["picture"] and (key := (r["prompt"], r["seed"], r["kind"])) in was
    ]
    pairs.sort(key=lambda pair: (pair[0]["copied"] == pair[1]["copied"], pair[0]["copied"] is not True))
    first: dict[str, tuple[Record, Record]] = {}
    for pair in pairs:
        first.setdefault(pair[1]["item"], pair)
    grades = [Grading.of(side.figures["criterion"], side.records) for side in (one, other)]
    shown = []
    for item, (mine, theirs) in list(first.items())[:SHOWN]:
        cells = [cell_of(works[item][0].run.folder, works[item][1])] if item in works else []
        cells = [{**cell, "label": "the work"} for cell in cells]
        for side, record, grading, label in ((one, mine, grades[0], "before"), (other, theirs, grades[1], "after")):
            cells.append({**cell_of(side.run.folder, record, grading), "label": label})
        changed = mine["copied"] != theirs["copied"]
        shown.append({"item": item, "prompt": theirs["prompt"] or "", "changed": changed, "cells": cells})
    return shown


def format_comparison(found: Mapping[str, Any]) -> list[str]:
    """A comparison for a terminal."""
    lines = [found["title"], found["detail"]]
    for row in found["rows"]:
        label = f"{STAGES.get(row['stage'], row['stage'])}, {GROUPS.get(row['group'], row['group'])}"
        lines.append(f"{label}: {format_gap(row)}")
    return [*lines, *found["differing"]]
