"""What a scan's summary says of its scores, in one pass over the records and without holding them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from probes.inputs.cohorts import Cohorts
from probes.report.figures import DetectorRow, detector_figures
from probes.report.scores import agreement_words, prevalence_words
from probes.report.summary import Added, Measured, Summary, summary_of
from probes.runs.folder import Run
from probes.runs.records import Record
from probes.runs.stage_log import Stages
from probes.scan.early_exit import Boundary, mean_of
from probes.scan.flagged import scored_prompts, scored_records
from probes.scan.protected import protected_words
from probes.types import Criterion

WIDTH = 200  # so many letters of a prompt are shown in a terminal
# How many of the highest-scoring prompts a summary names.
TOP = 10
# A median is exact up to so many scores, and that of a random choice of as many beyond.
KEPT = 100_000


@dataclass
class Spread:
    """One detector's scores as they come by."""

    count: int = 0
    highest: float | None = None
    kept: list[float] = field(default_factory=list)
    choice: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, value: float) -> None:
        self.count += 1
        self.highest = value if self.highest is None else max(self.highest, value)
        if len(self.kept) < KEPT:
            self.kept.append(value)
        elif (place := self.choice.randrange(self.count)) < KEPT:
            self.kept[place] = value

    def figures(self, total: int) -> dict[str, float | int | None]:
        return {
            "n": self.count,
            "unscored": total - self.count,
            "median": median(self.kept) if self.kept else None,
            "highest": self.highest,
        }


def figures(run: Run, cohorts: Cohorts, detectors: Sequence[str]) -> Added:
    """Scores of the run, the prompts that score highest, and where the truth is known how well it is told."""
    spreads = {name: Spread() for name in detectors}
    flags = {True: 0, False: 0, None: 0}

    def prompts() -> Iterator[tuple[float, str, str]]:
        for records in scored_prompts(run):
            values = []
            for record in records:
                flags[record["flagged"]] += 1
                for name, spread in spreads.items():
                    if (value := record["scores"].get(name)) is not None:
                        spread.add(value)
                values.append(record["scores"].get(detectors[0]))
            if any(value is not None for value in values):
                yield mean_of(values), record["item"], record["prompt"]

    top = heapq.nlargest(TOP, prompts())
    total = sum(flags.values())
    return {
        "scores": {name: spread.figures(total) for name, spread in spreads.items()},
        "flagged": flags[True],
        "cleared": flags[False],
        "undecided": flags[None],
        "highest": [{"score": score, "item": item, "prompt": prompt} for score, item, prompt in top],
        "detector": _told_apart(run, cohorts, detectors),
    }


def _told_apart(run: Run, cohorts: Cohorts, detectors: Sequence[str]) -> dict[str, DetectorRow]:
    """AUROC of trained works against matched non-members; only where the cohorts know both."""
    if not cohorts.members:
        return {}
    scanned: list[Record] = [
        {**record, "stage": "scan", "scores": {name: record["scores"].get(name) for name in detectors}}
        for record in scored_records(run)
    ]
    return detector_figures(scanned, {target.id for target in cohorts.members})


def early_exit_figures(run: Run, boundary: Boundary) -> dict[str, Any]:
    """How many prompts stopped after how many seeds, how they were decided, and the evaluations that this saved."""
    stopped = dict.fromkeys(range(1, boundary.seeds + 1), 0)
    decided = {True: 0, False: 0, None: 0}
    for records in scored_prompts(run):
        stopped[len(records)] += 1
        decided[records[-1]["prompt_flagged"]] += 1
    prompts, used = sum(stopped.values()), sum(seeds * count for seeds, count in stopped.items())
    return {
        "error": boundary.error,
        "threshold": boundary.threshold,
        "pilot_prompts": boundary.pilot,
        "max_seeds": boundary.seeds,
        "prompts": prompts,
        "above": decided[True],
        "below": decided[False],
        "undecided": decided[None],
        "stopped_after": {str(seeds): count for seeds, count in stopped.items()},
        "scores": used,
        "saved": boundary.seeds * prompts - used,
        "pilot_scores": boundary.pilot * boundary.seeds,
    }


def report_fields(
    run: Run, stages: Stages, metric: str | None, criterion: dict[str, Any], limits: Iterable[str]
) -> Measured:
    """The rest of summary.json, in the layout that a report reads."""
    records = list(scored_records(run)) if stages.complete("before") else []
    return summary_of(
        run,
        records,
        stages.entries,
        members={record["item"] for record in records},
        metric=metric,
        criterion=criterion,
        limits=[*limits, *stages.limits()],
    )


def criterion_fields(judge: Criterion | None) -> tuple[str | None, dict[str, Any]]:
    """A copy criterion's main metric and its description."""
    from probes.metrics import CopyJudge

    return (judge.metrics[0].name, judge.describe()) if isinstance(judge, CopyJudge) else (None, {})


def format_scan(summary: Summary) -> list[str]:
    """The summary for a terminal."""
    lines = [f"{row['score']:.4g}  {row['item']}  {_in_a_line(row['prompt'])}" for row in summary["highest"]]
    for name, row in summary["scores"].items():
        known = f"median {row['median']:.4g}, highest {row['highest']:.4g}" if row["n"] else "no score"
        apart = summary["detector"].get(name)
        auroc = None if apart is None else apart["auroc"]
        told = "" if auroc is None else f", AUROC {auroc:.3f} of trained works against non-members"
        lines.append(f"{name}: {known}, {row['n']} scored, {row['unscored']} unscored{told}")
    for row in summary["rows"]:
        if row["rate"] is not None:
            lines.append(
                f"{row['group']}: {row['copied']} of {row['n']} pictures are copies "
                f"({row['low']:.0%} to {row['high']:.0%}), {row['unscored']} not judged"
            )
    calibrated = summary["flagged"] + summary["cleared"]
    lines.append(
        f"{summary['flagged']} of {calibrated} flagged"
        if calibrated
        else "nothing was flagged or cleared: "
        f"there is no threshold for this model at these settings; run `diffshield {summary['calibrate']}`"
    )
    lines += agreement_words(summary.get("agreement"))
    lines += [] if (said := prevalence_words(summary)) is None else [said]
    lines += protected_words(summary.get("named"), summary.get("protected_pictures"))
    return [*lines, *_saved(summary.get("early_exit")), _cost(summary), *summary["limits"]]


def _in_a_line(prompt: str) -> str:
    """A prompt as a row of a table shows it."""
    text = " ".join(prompt[: 2 * WIDTH].split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _saved(early: dict[str, Any] | None) -> list[str]:
    if not early:
        return []
    stops = ", ".join(f"{count} after {seeds}" for seeds, count in early["stopped_after"].items() if count)
    return [
        f"{early['above']} of {early['prompts']} prompts above the threshold; seeds: {stops}; {early['saved']} of "
        f"{early['prompts'] * early['max_seeds']} scores saved (the pilot took {early['pilot_scores']}), at "
        f"most {early['error']:.1%} of prompts decided otherwise than by all seeds"
    ]


def _cost(summary: Summary) -> str:
    evaluations = sum(entry["evaluations"] for entry in summary["cost"] if entry["stage"] != "words")
    seconds = sum(entry["seconds"] for entry in summary["cost"] if entry["stage"] == "scan")
    scored = summary["flagged"] + summary["cleared"] + summary["undecided"]
    speed = f", {scored / seconds:.1f} scores a second" if seconds else ""
    return f"{evaluations} denoiser evaluations for {scored} scores{speed}"
