"""Prompts and seeds -> pictures, detector scores and copy verdicts, one record each, in a run folder.

Batches are cut at fixed places. A resumed run repeats a batch that was cut short as a whole and appends only what is
missing, so its records equal those of an uninterrupted run to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord
from probes.metrics import Alignment
from probes.model.batches import in_batches
from probes.model.denoising import embedding_arguments
from probes.model.generate import generators, quiet
from probes.runs.folder import Run, record_id
from probes.runs.progress import ProgressCallback
from probes.runs.records import Record
from probes.types import Criterion, Judgement, Subject
from shield.calibration.detectors import denoiser_input
from shield.calibration.setting_call import guidance_of
from shield.errors import MissingSignalError, NotCalibratedError
from shield.hooks.recording import recorded
from shield.hooks.shared_uncond import SharedUncond, shareable
from shield.model.conditioning import encoded
from shield.model.families import family_of
from shield.runtime.settings import Models, models_of, running_setting
from shield.thresholds import Threshold, found
from shield.types import Detector, Trace

USUAL_DETECTORS = ("structure_gap", "noise_gap")

ACTIONS = {"passed": "pass", "mitigated": "mitigate", "blocked": "block"}


@dataclass(frozen=True)
class Sampling:
    """How pictures are made. ``batch_size`` counts pictures; guidance doubles the denoiser's rows."""

    steps: int = 25
    guidance_scale: float = 5.0
    batch_size: int = 16


@dataclass(frozen=True)
class Job:
    """One picture to make: a target's caption, or an embedding (T, D) that an attack found after some steps."""

    target: PromptRecord
    seed: int
    prompt_embeds: torch.Tensor | None = None
    attack_steps: int | None = None

    @property
    def file_name(self) -> str:
        attacked = "" if self.attack_steps is None else f"-a{self.attack_steps}"
        return f"{self.target.id}-s{self.seed}{attacked}.png"


@dataclass(frozen=True)
class Drawn:
    """What came out for one job: a picture (None: none was made), detector scores, more fields of the record, and the
    first detector's threshold.
    """

    picture: Image.Image | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    more: Record = field(default_factory=lambda: Record())
    threshold: Threshold | None = None


Draw = Callable[[Sequence[Job]], list[Drawn]]


def jobs_for(targets: Sequence[PromptRecord], seeds: Sequence[int]) -> list[Job]:
    """Every target with every seed."""
    return [Job(target, seed) for target in targets for seed in seeds]


def record_stage(
    run: Run,
    stage: str,
    model: str,
    jobs: Sequence[Job],
    draw: Draw,
    *,
    batch_size: int,
    judge: Criterion | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Append one record for each job that the run doesn't hold yet; pictures go to pictures/<stage>/."""
    done = run.done_ids()
    ids = [
        record_id(
            run.config,
            job.target.prompt,
            job.seed,
            stage=stage,
            model=model,
            item=job.target.id,
            attack_steps=job.attack_steps,
        )
        for job in jobs
    ]
    folder = run.folder / "pictures" / stage

    def work(places: Sequence[int]) -> Sequence[int]:
        if all(ids[place] in done for place in places):
            return places
        batch = [jobs[place] for place in places]
        drawn = draw(batch)
        judged = judgements(judge, batch, drawn)
        for place, job, one, judgement in zip(places, batch, drawn, judged, strict=True):
            if ids[place] not in done:
                path = _saved(folder, job, one.picture, run.folder)
                run.append(record_of(ids[place], stage, model, job, one, judgement, path))
        return places

    in_batches(work, range(len(jobs)), batch_size, progress)


def record_works(run: Run, targets: Sequence[PromptRecord]) -> None:
    """Copies of the reference pictures, stage "work", so that the run folder can be read on its own."""
    done = run.done_ids()
    folder = run.folder / "pictures" / "work"
    for target in targets:
        identity = record_id(run.config, target.prompt, None, stage="work", item=target.id)
        if target.reference is None or identity in done:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{target.id}.png"
        reference_picture(target.reference).save(path)
        run.append(
            {
                "id": identity,
                "stage": "work",
                **_about(target),
                "model": None,
                "seed": None,
                "attack_steps": None,
                "picture": path.relative_to(run.folder).as_posix(),
                "scores": {},
                "copied": None,
                "unjudged": "it is the reference itself",
            }
        )


def judgements(judge: Criterion | None, jobs: Sequence[Job], drawn: Sequence[Drawn]) -> list[Judgement]:
    """The criterion's verdicts; unjudged where there is no criterion, no reference or no picture."""
    verdicts = [
        Judgement(
            {},
            None,
            "there is no calibrated copy criterion" if job.target.reference else "there is no reference picture",
        )
        for job in jobs
    ]
    pairs = [
        (place, one.picture, reference_picture(job.target.reference))
        for place, (job, one) in enumerate(zip(jobs, drawn, strict=True))
        if one.picture is not None and job.target.reference is not None
    ]
    if judge is not None and pairs:
        judged = judge.judge([picture for _, picture, _ in pairs], [reference for _, _, reference in pairs])
        for (place, _, _), verdict in zip(pairs, judged, strict=True):
            verdicts[place] = verdict
    return [
        Judgement({}, None, "no picture was made") if one.picture is None else verdict
        for verdict, one in zip(verdicts, drawn, strict=True)
    ]


def _saved(folder: Path, job: Job, picture: Image.Image | None, root: Path) -> str | None:
    if picture is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / job.file_name
    picture.save(path)
    return path.relative_to(root).as_posix()


def record_of(
    identity: str, stage: str, model: str, job: Job, drawn: Drawn, judgement: Judgement, picture: str | None
) -> Record:
    """One line of records.jsonl."""
    return {
        "id": identity,
        "stage": stage,
        **_about(job.target),
        "model": model,
        "seed": job.seed,
        "attack_steps": job.attack_steps,
        "picture": picture,
        "scores": {**judgement.scores, **drawn.scores},
        "copied": judgement.copied,
        "unjudged": judgement.unjudged,
        **drawn.more,
    }


def _about(target: PromptRecord) -> Record:
    """What a record says of its prompt."""
    about: Record = {
        "item": target.id,
        "kind": target.kind,
        "memorization": target.memorization,
        "rung": target.rung,
        "exposures": target.exposures,
        "split": target.split,
        "prompt": target.prompt,
    }
    return {**about, "columns": dict(target.columns)} if target.columns else about


def drawn_by_pipeline(
    subject: Subject,
    sampling: Sampling,
    detectors: Sequence[Detector] = (),
    *,
    pictures: bool = True,
    thresholds: Sequence[Threshold] = (),
) -> Draw:
    """Runs the bare pipeline. Without ``pictures`` it stops after the steps that the detectors read, and shares the
    unconditional prediction of a seed where that is exact (shield/hooks/shared_uncond.py). Then a model without
    such a prediction, with guidance off or distilled, is asked about the empty prompt, too.

    ``flagged`` in a record is the first detector's verdict; null where it has no threshold here or no score.
    """
    if not pictures and not detectors:
        raise ValueError("Without pictures and without detectors there is nothing to scan.")
    family = family_of(subject.pipe)
    models = models_of(subject.pipe) if thresholds else Models("")
    first_k = max((detector.first_k for detector in detectors), default=0)
    needs = frozenset().union(*(detector.needs for detector in detectors)) if detectors else frozenset()
    shares = not pictures and shareable(subject.pipe, detectors, sampling.guidance_scale)
    shared = SharedUncond(subject.pipe) if shares else None
    guidance_scale = 1.0 if shares else sampling.guidance_scale
    scale = guidance_of(subject.pipe, {family.guidance: sampling.guidance_scale})
    is_off = family.guided != "never" and scale <= 1.0
    asked = not pictures and (family.layout == "separate" or is_off)

    def draw(jobs: Sequence[Job]) -> list[Drawn]:
        images: list[Image.Image | None] = [None] * len(jobs)
        seeds = [job.seed for job in jobs]
        uncond = shared.of(seeds) if shared else asked
        with (
            quiet(subject.pipe),
            torch.no_grad(),
            recorded(subject.pipe, needs, first_k, stop=not pictures, extra_uncond=uncond) as trace,
        ):
            output = subject.pipe(
                **condition(subject, jobs, once=shares),
                generator=generators(seeds),
                num_inference_steps=sampling.steps,
                guidance_scale=guidance_scale,
            )
            images = list(output.images)
        scores: list[dict[str, float | None]] = [{} for _ in jobs]
        for detector in detectors:
            for row, value in zip(scores, detector_scores(detector, trace, len(jobs)), strict=True):
                row[detector.name] = value
        limit = _threshold(detectors, thresholds, subject, models, trace, sampling)
        return [
            Drawn(image, row, _flag(detectors, row, limit), limit) for image, row in zip(images, scores, strict=True)
        ]

    return draw


def drawn_by_shield(shield: Any, sampling: Sampling) -> Draw:
    """Runs the pipeline behind the shield. A blocked picture isn't kept: what isn't handed out is no copy."""

    def draw(jobs: Sequence[Job]) -> list[Drawn]:
        with quiet(shield.pipe), torch.no_grad():
            output = shield(
                [job.target.prompt for job in jobs],
                generator=generators([job.seed for job in jobs]),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
            )
        return [_shielded(image, verdict) for image, verdict in zip(output.images, output.verdicts, strict=True)]

    return draw


def _shielded(image: Image.Image, verdict: Any) -> Drawn:
    # Unlike `verdict.flagged` this is the detectors' alone and None where none could judge, as in the stage scan, so
    # that the two stages can be compared; what the screen or the gallery found is in `action` and `reason`.
    flags = [score.flagged for score in verdict.scores]
    flagged = True if True in flags else None if None in flags or not flags else False
    more: Record = {
        "action": ACTIONS[verdict.status],
        "reason": "; ".join(map(str, verdict.reasons)) or None,
        "flagged": flagged,
    }
    if verdict.status == "blocked":
        return Drawn(None, {}, {**more, "copied": False, "unjudged": None})
    told = reversed(verdict.scores)  # of several points of the schedule the first is kept, as in a scan of first steps
    scores = {score.detector: score.value if math.isfinite(score.value) else None for score in told}
    return Drawn(image, scores, more)


def aligned(draw: Draw, alignment: Alignment | None) -> Draw:
    """The same, with each picture's agreement with its caption as score "alignment"."""
    if alignment is None:
        return draw

    def both(jobs: Sequence[Job]) -> list[Drawn]:
        drawn = draw(jobs)
        made = [(place, one.picture) for place, one in enumerate(drawn) if one.picture is not None]
        captions = [jobs[place].target.prompt for place, _ in made]
        values = alignment.similarity([picture for _, picture in made], captions)
        for (place, _), value in zip(made, values, strict=True):
            drawn[place] = replace(drawn[place], scores={**drawn[place].scores, "alignment": float(value)})
        return drawn

    return both


def condition(subject: Subject, jobs: Sequence[Job], once: bool = False) -> dict[str, Any]:
    """Arguments of a pipeline call: prompts, or embeddings if the jobs have them (all or none in one batch).

    ``once``: a prompt with several seeds in the batch is encoded once, for calls without guidance.
    """
    embeds = [job.prompt_embeds for job in jobs if job.prompt_embeds is not None]
    if not embeds:
        prompts = [job.target.prompt for job in jobs]
        return _encoded_once(subject, prompts) if once and len(set(prompts)) < len(prompts) else {"prompt": prompts}
    if len(embeds) != len(jobs):
        raise ValueError("A batch holds captions or embeddings, not both.")
    return embedding_arguments(subject, torch.stack(embeds))


def _encoded_once(subject: Subject, prompts: Sequence[str]) -> dict[str, Any]:
    distinct = list(dict.fromkeys(prompts))
    found = encoded(subject.pipe, distinct).rows([distinct.index(prompt) for prompt in prompts])
    pooled = {} if found.pooled is None else {"pooled_prompt_embeds": found.pooled}
    return {"prompt_embeds": found.embeds, **pooled}


def detector_scores(detector: Detector, trace: Trace, count: int) -> list[float | None]:
    """One float for each image; None where the detector can't score (no guidance, not a number)."""
    try:
        values = detector.score(trace).tolist()
    except MissingSignalError:
        return [None] * count
    return [value if math.isfinite(value) else None for value in values]


def _threshold(
    detectors: Sequence[Detector],
    thresholds: Sequence[Threshold],
    subject: Subject,
    models: Models,
    trace: Trace,
    sampling: Sampling,
) -> Threshold | None:
    """The first detector's stored threshold for exactly these settings, None if there is none."""
    if not detectors or not thresholds or not trace.steps or trace.steps[0].noise_cond is None:
        return None
    setting = running_setting(
        subject.pipe,
        models,
        denoiser_input(subject.pipe, trace),
        [(step.timestep, step.signal) for step in trace.steps],
        sampling.guidance_scale,
        trace.micro_conditioning,
    )
    try:
        return found(thresholds, detectors[0], setting)
    except NotCalibratedError:
        return None


def _flag(detectors: Sequence[Detector], scores: Mapping[str, float | None], threshold: Threshold | None) -> Record:
    if not detectors:
        return {}
    value = scores[detectors[0].name]
    return {"flagged": None if value is None or threshold is None else value > threshold.value}
