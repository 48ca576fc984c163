"""A scan that draws its prompts: pictures, copy scores where there is a reference, and agreement over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probes.drawing.agreement import STAGE as BESIDE
from probes.drawing.agreement import agreement_figures, record_benign
from probes.drawing.draw import (
    Draw,
    Drawn,
    Job,
    Sampling,
    aligned,
    drawn_by_pipeline,
    jobs_for,
    record_stage,
    record_works,
)
from probes.inputs.cohorts import Cohorts, Sizes, cohorts_of_manifest, cohorts_of_prompts
from probes.inputs.known_ahead import pictures_ahead, scores_ahead
from probes.inputs.prompts import read_prompts
from probes.inputs.truth import judge_for, testbed_alignment
from probes.report.summary import Summary
from probes.runs.folder import Run, write_json
from probes.runs.progress import bars
from probes.runs.provenance import describe_input
from probes.runs.stage_log import Stages
from probes.runs.table import write_results
from probes.scan.figures import criterion_fields, figures, report_fields
from probes.scan.outcome import Telling, described_threshold, outcome_figures, weigh_words
from probes.scan.scorer import ScoringConfig, weighed_jobs
from probes.testbed.checkpoint import Checkpoint
from shield.protected.gallery import Gallery
from shield.thresholds import Threshold


def with_pictures(
    prompts: Path | None,
    out: Path,
    config: dict[str, Any],
    sampling: Sampling,
    checkpoint: Checkpoint,
    device: str,
    resume: bool,
    show_progress: bool,
    thresholds: Sequence[Threshold] | None,
    told: Telling,
    say: Callable[[str], None],
    gallery: Gallery | None,
) -> tuple[Path, Summary]:
    """Scores, pictures and copy scores in one process, and what is like the gallery's; the table and the summary."""
    model, detectors, steps, seeds = (config[key] for key in ("model", "detectors", "steps", "seeds"))
    subject, manifest = checkpoint.subject(device), checkpoint.known(prompts)
    cohorts = cohorts_of(prompts, manifest, config["column"], config["limit"])
    judge, limits = judge_for(manifest, cohorts)
    config = {**config, "sampling": asdict(sampling)}
    inputs = [describe_input(prompts)] if prompts else []
    points = config.get("points")
    scoring = ScoringConfig(
        model, tuple(detectors), steps, sampling, thresholds=thresholds, points=points, folder=config.get("thresholds")
    )
    seen: list[Threshold] = []
    draw = aligned(_noted(scoring.draw(subject, pictures=True), seen), testbed_alignment() if manifest else None)
    limit, why = scoring.ahead(subject)
    seen += [] if limit is None else [limit]
    compared = told.benign if cohorts.prompts and len(seeds) > 1 else 0
    ahead = scores_ahead(limit, why)
    ahead += pictures_ahead(cohorts.prompts, len(seeds), told.benign) if cohorts.prompts else []
    for sentence in ahead:
        say(sentence)
    with (
        Run.start(
            out,
            config,
            resume=resume,
            kind="scan",
            inputs=inputs,
            model={"name": model, "sha256": subject.sha256()},
            seeds=seeds,
        ) as run,
        bars(show_progress) as track,
    ):
        run.note(known_ahead=ahead)
        stages = Stages(run.folder, subject.denoiser)
        stages.do("work", lambda: record_works(run, cohorts.drawn()))
        jobs, batch = jobs_for(cohorts.drawn(), seeds), sampling.batch_size

        def before() -> dict[str, Any]:
            record_stage(run, "before", model, jobs, draw, batch_size=batch, judge=judge, progress=track("scan"))
            return described_threshold(seen[0] if seen else None)

        stages.do("before", before)
        if compared:
            plain = drawn_by_pipeline(subject, sampling)
            beside = track("benign prompts")
            stages.do(BESIDE, lambda: record_benign(run, model, seeds, compared, plain, batch, beside))
        weigh_words(
            run,
            stages,
            stages.detail("before").get("threshold"),
            told.words,
            lambda chosen: weighed_jobs(subject, chosen, scoring),
        )
        metric, criterion = criterion_fields(judge)
        summary: Summary = {
            **figures(run, cohorts, detectors),
            **outcome_figures(run, stages, told.tpr, gallery),
            "agreement": agreement_figures(run, seeds) if compared else None,
            **report_fields(run, stages, metric, criterion, [*cohorts.limits, *limits]),
        }
        write_json(run.folder / "summary.json", summary)
        table = write_results(run)
        run.finish("complete")
    return table, summary


def _noted(draw: Draw, seen: list[Threshold]) -> Draw:
    """The same; the thresholds that it flags by are added to ``seen``."""

    def noted(jobs: Sequence[Job]) -> list[Drawn]:
        drawn = draw(jobs)
        seen.extend(one.threshold for one in drawn if one.threshold is not None and not seen)
        return drawn

    return noted


def cohorts_of(prompts: Path | None, manifest: Any | None, column: str | None, limit: int | None) -> Cohorts:
    if prompts is not None:
        targets = read_prompts(prompts, column=column, limit=limit)
        return Cohorts(prompts=cohorts_of_prompts(targets, manifest, Sizes()).prompts)
    return cohorts_of_manifest(manifest, Sizes())
