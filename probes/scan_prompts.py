"""`diffshield scan`: which prompts of a file look memorized. Scores only, or pictures and copy scores as well.

A score needs the first denoising step alone, so a scan costs two denoiser evaluations for each prompt and noise.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from probes.audit import Plan, judge_for, manifest_of, testbed_alignment
from probes.errors import AuditError
from probes.metrics import CopyJudge
from probes.panel import Panel, Sizes, panel_of_manifest, panel_of_prompts
from probes.progress import bars
from probes.prompts import read_prompts
from probes.results import write_results
from probes.runs import Record, Run, describe_input, write_json
from probes.scan import (
    Sampling,
    aligned,
    drawn_by_pipeline,
    jobs_for,
    record_stage,
    record_works,
    stored_thresholds,
)
from probes.stages import Stages
from probes.summary import detector_figures, ladder, stage_rows
from probes.types import Criterion, Subject
from shield.detectors import DETECTORS
from shield.errors import BadRequestError
from shield.load import load
from shield.types import Detector

# How many of the highest-scoring prompts a summary names.
TOP = 10


@dataclass(frozen=True)
class Scanned:
    """What a scan wrote: its folder, its table, and its figures."""

    folder: Path
    table: Path
    summary: dict[str, Any] = field(repr=False)


def scan(prompts: Path | None, out: Path, *, model: str = "testbed", column: str | None = None,
         limit: int | None = None, seeds: Sequence[int] = (500,), detectors: Sequence[str] = Plan.detectors,
         steps: int = 1, pictures: bool = False, sampling: Sampling | None = None, device: str = "auto",
         resume: bool = False, show_progress: bool = True) -> Scanned:
    """Score every prompt with every seed into the run folder ``out``.

    ``steps`` is how many denoising steps the detectors read; the first of ``sampling.steps``. Without ``pictures``
    nothing beyond them is computed; with them a record also holds copy scores, where the prompt has a reference
    picture, and alignment, where the model has an OpenCLIP. Without ``prompts`` the testbed's own captions are taken.

    Raises AuditError (no prompts for a model nothing is known about), BadRequestError (unknown detector, more steps
    than the schedule has), PromptFileError, RunError, WeightsError.
    """
    sampling = sampling or Sampling()
    scorers = detectors_reading(detectors, steps, sampling)
    manifest = manifest_of(model)
    panel = _panel(prompts, manifest, model, column, limit)
    judge, limits = judge_for(manifest, panel) if pictures else (None, ())
    config = {"model": model, "column": column, "limit": limit, "seeds": list(seeds), "detectors": list(detectors),
              "steps": steps, "pictures": pictures, "sampling": asdict(sampling)}
    inputs = [describe_input(prompts)] if prompts else []
    subject = Subject(load(model, device=device), model)
    draw = drawn_by_pipeline(subject, sampling, scorers, pictures=pictures, thresholds=stored_thresholds())
    stage, jobs = "before" if pictures else "scan", jobs_for(panel.drawn(), seeds)  # as an audit calls them
    with Run.start(out, config, resume=resume, kind="scan", inputs=inputs,
                   model={"name": model, "sha256": subject.sha256()}, seeds=seeds) as run, bars(show_progress) as track:
        stages = Stages(run.folder, subject.denoiser)
        if pictures:
            stages.do("work", lambda: record_works(run, panel.drawn()))
            draw = aligned(draw, testbed_alignment() if manifest else None)
        stages.do(stage, lambda: record_stage(run, stage, model, jobs, draw, judge=judge,
                                              batch_size=sampling.batch_size, progress=track("scan")))
        summary = {**_figures(run, panel, list(detectors)), **_about(run, stages, judge, [*panel.limits, *limits])}
        write_json(run.folder / "summary.json", summary)
        table = write_results(run)
        run.finish("complete")
    return Scanned(out, table, summary)


def detectors_reading(names: Sequence[str], steps: int, sampling: Sampling) -> list[Detector]:
    """The detectors, each reading the first ``steps`` denoising steps."""
    unknown = [name for name in names if name not in DETECTORS]
    if unknown or not names:
        raise BadRequestError(f"There is no detector {', '.join(unknown)!r}; use {', '.join(DETECTORS)}.")
    if not 1 <= steps <= sampling.steps:
        raise BadRequestError(f"Detectors read 1 to {sampling.steps} steps of this schedule, not {steps}.")
    return [replace(DETECTORS[name](), first_k=steps) for name in names]  # type: ignore[type-var]


def _panel(prompts: Path | None, manifest: Any | None, model: str, column: str | None, limit: int | None) -> Panel:
    if prompts is not None:
        targets = read_prompts(prompts, column=column, limit=limit)
        return Panel(prompts=panel_of_prompts(targets, manifest, Sizes()).prompts)
    if manifest is None:
        raise AuditError(f"Nothing is known about what {model} was trained on: give a prompt file.")
    return panel_of_manifest(manifest, Sizes())


def _figures(run: Run, panel: Panel, detectors: Sequence[str]) -> dict[str, Any]:
    """Scores of the run, the prompts that score highest, and where the truth is known how well it is told."""
    scores: dict[str, list[float]] = {name: [] for name in detectors}
    flags: list[bool | None] = []
    by_item: dict[str, tuple[float, int, str]] = {}
    for record in _scored(run):
        flags.append(record["flagged"])
        for name in detectors:
            if record["scores"].get(name) is not None:
                scores[name].append(record["scores"][name])
        value = record["scores"].get(detectors[0])
        if value is not None:
            total, count, prompt = by_item.get(record["item"], (0.0, 0, record["prompt"]))
            by_item[record["item"]] = total + value, count + 1, prompt
    top = heapq.nlargest(TOP, ((total / count, item, prompt) for item, (total, count, prompt) in by_item.items()))
    return {"scores": {name: _spread(values, len(flags)) for name, values in scores.items()},
            "flagged": flags.count(True), "cleared": flags.count(False), "undecided": flags.count(None),
            "highest": [{"score": score, "item": item, "prompt": prompt} for score, item, prompt in top],
            "detector": _told_apart(run, panel, detectors)}


def _spread(values: Sequence[float], total: int) -> dict[str, float | int | None]:
    return {"n": len(values), "unscored": total - len(values), "median": median(values) if values else None,
            "highest": max(values, default=None)}


def _told_apart(run: Run, panel: Panel, detectors: Sequence[str]) -> dict[str, Any]:
    """AUROC of trained works against matched non-members; only where the panel knows both."""
    if not panel.members:
        return {}
    scanned = [{**record, "stage": "scan", "scores": {name: record["scores"].get(name) for name in detectors}}
               for record in _scored(run)]
    return detector_figures(scanned, {target.id for target in panel.members})


def _about(run: Run, stages: Stages, judge: Criterion | None, limits: Sequence[str]) -> dict[str, Any]:
    """The rest of summary.json, in the layout that a report reads (probes/audit.py)."""
    pictures = stages.complete("before")
    records = list(_scored(run)) if pictures else []
    metric = judge.metrics[0].name if isinstance(judge, CopyJudge) else None
    items = {record["item"] for record in records}
    return {"format": 1, "model": run.about["model"]["name"], "model_sha256": run.about["model"]["sha256"],
            "criterion": judge.describe() if isinstance(judge, CopyJudge) else {},
            "rows": stage_rows(records, items, metric), "ladder": ladder(records, metric), "curve": [], "gaps": [],
            "utility": None, "mask": {},
            "cost": [{key: entry.get(key) for key in ("stage", "status", "seconds", "evaluations")}
                     for entry in stages.entries],
            "limits": [*limits, *stages.limits()]}


def _scored(run: Run) -> Iterator[Record]:
    return (record for record in run.records() if record["stage"] != "work")


def lines_of(summary: dict[str, Any]) -> list[str]:
    """The summary for a terminal."""
    lines = [f"{row['score']:.4g}  {row['item']}  {row['prompt']}" for row in summary["highest"]]
    for name, row in summary["scores"].items():
        known = f"median {row['median']:.4g}, highest {row['highest']:.4g}" if row["n"] else "no score"
        auroc = summary["detector"].get(name, {}).get("auroc")
        told = "" if auroc is None else f", AUROC {auroc:.3f} of trained works against non-members"
        lines.append(f"{name}: {known}, {row['n']} scored, {row['unscored']} unscored{told}")
    for row in summary["rows"]:
        if row["rate"] is not None:
            lines.append(f"{row['group']}: {row['copied']} of {row['n']} pictures are copies "
                         f"({row['low']:.0%} to {row['high']:.0%}), {row['unscored']} not judged")
    calibrated = summary["flagged"] + summary["cleared"]
    lines.append(f"{summary['flagged']} of {calibrated} flagged" if calibrated else "nothing was flagged or cleared: "
                 "there is no threshold for this model at these settings (diffshield calibrate makes one)")
    evaluations = sum(entry["evaluations"] for entry in summary["cost"])
    return [*lines, f"{evaluations} denoiser evaluations", *summary["limits"]]
