"""Run folder -> report.json and one self-contained report.html: sentences, table, pictures side by side, plots.

Needs no torch, so a report can be made again anywhere the run folder is. Figures come from the run's summary.json, or
from its records where a run was stopped before it wrote one. Nothing is said without its n, its interval and what was
left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from probes.errors import RunChoiceError, RunError
from probes.metrics.statistics import bootstrap_mean
from probes.report import locality_plots, mask_plots, plots
from probes.report.findings import findings, headline
from probes.report.fold import cards, flow, listed, scan_tables
from probes.report.grades import Grading
from probes.report.reported_run import ReportedRun
from probes.report.sentences import percent, plain_words
from probes.report.sheets import sheets
from probes.report.summary import StoredSummary, deciding_metric, read_json, stored_summary
from probes.report.wording import CONTROLS, GROUPS, LOCALITY, SEVERITIES, STAGES, WORDS, wording_of
from probes.runs.folder import Run, write_json
from probes.runs.records import Record

FORMAT = 1
# What the templates call things.
NAMES: Mapping[str, Any] = {
    "group_names": GROUPS,
    "stage_names": STAGES,
    "locality_names": LOCALITY,
    "control_names": CONTROLS,
    "severities": SEVERITIES,
    "words": WORDS,
}

_MAYBE_TEXT, _MAYBE_WHOLE, _MAYBE_TRUE = (str, type(None)), (int, type(None)), (bool, type(None))
_FIELDS: Mapping[str, Any] = {
    "stage": str,
    "item": str,
    "kind": str,
    "prompt": _MAYBE_TEXT,
    "picture": _MAYBE_TEXT,
    "scores": dict,
    "copied": _MAYBE_TRUE,
    "flagged": _MAYBE_TRUE,
    "seed": _MAYBE_WHOLE,
    "attack_steps": _MAYBE_WHOLE,
    "rung": _MAYBE_WHOLE,
    "exposures": _MAYBE_WHOLE,
    "memorization": _MAYBE_TEXT,
    "unjudged": _MAYBE_TEXT,
    "reason": _MAYBE_TEXT,
    "action": _MAYBE_TEXT,
    "split": _MAYBE_TEXT,
    "model": _MAYBE_TEXT,
}
_NEEDED = ("stage", "item", "kind", "prompt", "picture", "scores", "copied", "seed")


def write_report(folder: Path | str) -> Path:
    """Write report.json and report.html into the run folder; returns the HTML's path. RunError if it is no run."""
    run, records, figures = read_run(folder)
    found = found_of(run, figures, records)
    made = findings(found)
    head, sentences = headline(found, made), plain_words(figures, records)
    shown = listed(run.folder, made)
    about = {"severity": head.severity, "title": head.title, "detail": head.detail, "next": head.next}
    plain = [{key: value for key, value in one.items() if key != "src"} for one in shown]
    report = {"format": FORMAT, "run": run.about, "headline": about, "findings": plain, "sentences": sentences}
    write_json(run.folder / "report.json", {**report, **figures})
    stages = read_json(run.folder / "stages.json") or []
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            run=run.about,
            folder=run.folder.resolve().name,
            records=len(records),
            head=head,
            cards=cards(run.folder, found, head),
            findings=[one for one in shown if one["title"] != head.title],
            flow=flow(stages, figures),
            scan=scan_tables(run.folder, figures, records),
            grading=found.grading,
            sentences=sentences,
            figures=figures,
            budget=wording_of(figures["attack"]).budget,
            rows=table_rows(figures),
            plots=_plots(figures, records),
            sheets=sheets(run.folder, records, found.grading),
            stages=stages,
            **NAMES,
        )
    )
    path = run.folder / "report.html"
    write_page(path, page)
    return path


def found_of(run: Run, figures: StoredSummary, records: Sequence[Record]) -> ReportedRun:
    """A run as its findings see it."""
    grading, kind = Grading.of(figures["criterion"], records), str(run.about.get("kind"))
    prompts = [given["path"] for given in run.about["inputs"][:1]]
    return ReportedRun(kind, str(run.folder), figures["model"] or run.folder.name, figures, records, grading, prompts)


def read_run(folder: Path | str) -> tuple[Run, list[Record], StoredSummary]:
    """A run, its records, checked, and its figures. RunError if it holds nothing to report."""
    run = Run.open(folder)
    if run.about.get("kind") == "traps":
        raise RunChoiceError(
            f"{run.folder} is a test of traps, which has no pictures to report: its figures are in summary.json."
        )
    records = [_checked(run.folder, record) for record in run.records()]
    if not records and not (run.folder / "summary.json").exists():
        raise RunChoiceError(f"{run.folder} holds no records yet, so there is nothing to report.")
    return run, records, stored_summary(run, records)


def write_page(path: Path, page: str) -> None:
    """Write a page to a temporary name and rename it. RunError if it can't be written."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_text(page, encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"Can't write {path}: {error.strerror or error}.") from error


def _checked(folder: Path, record: Record) -> Record:
    """The record, if its fields are of the kinds that every stage writes; RunError otherwise."""
    wrong = [name for name in _NEEDED if name not in record]
    held: Mapping[str, Any] = record
    wrong += [name for name, kinds in _FIELDS.items() if name in held and not isinstance(held[name], kinds)]
    scores = record.get("scores")
    if isinstance(scores, dict) and not all(_number(score) for score in scores.values()):
        wrong.append("scores")
    if wrong:
        raise RunError(
            f"{folder / 'records.jsonl'} can't be reported: record {record['id'][:40]!r} has no or another "
            f"kind of {wrong[0]}."
        )
    return record


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value))


def sentences_of(folder: Path | str) -> list[str]:
    """The headline, the sentences and the next command of a report that was written. RunError if there is none."""
    report = read_json(Path(folder) / "report.json")
    if report is None:
        raise RunChoiceError(f"{folder} has no report yet. Make one with: diffshield report {folder}")
    head = report["headline"]
    return [f"{head['title']}.", *report["sentences"], *([f"Next: {head['next']}"] if head["next"] else [])]


def table_rows(figures: StoredSummary) -> list[dict[str, Any]]:
    """Rows of the main table: picture stages, then each attack at its largest number of steps."""
    last = max((row["attack_steps"] for row in figures["curve"]), default=None)
    attacked = [
        {**row, "label": f"{_attacked_name(figures, row['stage'])} ({wording_of(figures['attack']).far(last)})"}
        for row in figures["curve"]
        if row["attack_steps"] == last
    ]
    groups = [*GROUPS, *(row["group"] for row in figures["rows"])]
    stages = [*STAGES, *(row["stage"] for row in figures["rows"])]
    ordered = sorted(figures["rows"], key=lambda row: (stages.index(row["stage"]), groups.index(row["group"])))
    return [{**row, "label": STAGES.get(row["stage"], row["stage"])} for row in ordered] + attacked


def _attacked_name(figures: StoredSummary, stage: str) -> str:
    name = STAGES.get(stage, stage)
    return name if figures["pruned"] else name.removeprefix("pruned, then ")


def _plots(figures: StoredSummary, records: Sequence[Record]) -> dict[str, Markup]:
    drawn = {}
    if any(row["rate"] is not None for row in figures["ladder"]):
        metric = deciding_metric(figures["criterion"], records) or "no metric"
        threshold = figures["criterion"].get("metrics", {}).get(metric, {}).get("threshold")
        rungs = ladder_scores(records, metric)
        drawn["ladder"] = Markup(plots.ladder_plot(figures["ladder"], rungs, metric, threshold))
    curve = [row for row in figures["curve"] if row["rate"] is not None]
    for name, curves in (("attacked", plots.CURVES), ("hardened_attacked", plots.HARDENED)):
        if any(row["stage"] == name for row in curve):
            drawn[name] = Markup(plots.attack_plot(figures["curve"], curves, wording_of(figures["attack"]).axis))
    if figures["tradeoff"]:
        before = next((row for row in figures["rows"] if (row["stage"], row["group"]) == ("before", "members")), None)
        drawn["tradeoff"] = Markup(plots.tradeoff_plot(figures["tradeoff"], before or {"rate": None}))
    if figures["mask"].get("densities"):
        drawn["density"] = Markup(mask_plots.density_plot(figures["mask"]["densities"]))
    if figures["mask"].get("overlap"):
        drawn["overlap"] = Markup(mask_plots.overlap_plot(figures["mask"]["overlap"]))
    for name, svg in locality_plots.plots(figures["locality"] or {}).items():
        drawn[f"locality_{name}"] = Markup(svg)
    return drawn


def ladder_scores(records: Iterable[Record], metric: str) -> list[dict[str, Any]]:
    """Mean copy score of stage "before" for each rung, with a bootstrap interval over works."""
    scores: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for record in records:
        value = (record.get("scores") or {}).get(metric)
        on_ladder = record["stage"] == "before" and record["kind"] == "work"
        if on_ladder and (rung := record.get("rung")) is not None and value is not None:
            scores[rung].append((value, record["item"]))
    rows = []
    for rung, pairs in sorted(scores.items()):
        mean = bootstrap_mean([value for value, _ in pairs], [item for _, item in pairs])
        rows.append({"rung": rung, "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n})
    return rows


def in_markdown(text: str) -> str:
    """Text in one line, as no markup and no cell's end."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(str(text).split()))


def environment() -> Environment:
    """Everything is escaped; a name that the template misspells is an error."""
    made = Environment(
        loader=PackageLoader("probes.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = percent
    made.filters["md"] = in_markdown
    return made
