"""The closed loop: scan -> before -> shield -> locate -> prune -> attack with controls -> harden -> attack -> report.

A line of ``records.jsonl`` is a Record (probes/runs/records.py), one per picture or per scanned prompt and seed.

Stages, in order::

    work                 the reference pictures themselves (picture only: the first column of a contact sheet)
    scan                 detector scores of all prompts on seeds of their own, first denoising steps only, no picture
    benign               of one's own prompts: benign prompts beside them, to compare agreement over seeds with
    before               the audited model, caption, no protection
    shielded             the same prompts and seeds through shield.Shield
    twin                 the same prompts and seeds on the clean twin
    pruned               the same prompts and seeds with the located weights at zero
    random_pruned        members only, as many random weights of each module at zero: the control
    attacked             pruned model, adversarial embedding of members, same prompts and seeds
    nonmember_attacked   pruned model, matched non-members, same budget
    twin_attacked        clean twin, the members' works, same budget
    surrogates, kept, harden, hardened, hardened_attacked, hardened_nonmember_attacked
            see probes/audit/hardening_stages.py

In stages with "attacked", attack_steps = 0 is the caption itself: those records repeat the ones (and name the
pictures) of stages pruned (of a model that wasn't pruned: before), twin and hardened; a search with another start
draws them. No search sees the seeds that pictures are drawn with.

Other files of an audit's run folder::

    stages.json    [{"stage", "status": "complete" | "skipped" | "partial", "seconds", "evaluations" (denoiser calls per
                   image, summed), "records", "why" (if skipped), "detail": {...}}]
    summary.json   see probes/report/summary.py
    mask.safetensors, embeddings/<stage>/<item>.safetensors, report.html, pictures/<stage>/<item>-s<seed>[-a<steps>].png
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from probes.audit.plan import BASE_SCENES, FULL, QUICK, TESTBED_LOCALIZER, TESTBED_LR, AuditPlan
from probes.audit.request import Done
from probes.audit.session import AuditSession, GroundTruth
from probes.audit.stages import complete
from probes.drawing.ahead import threshold_ahead
from probes.errors import AuditError
from probes.inputs.cohorts import cohorts_of_manifest, cohorts_of_prompts
from probes.inputs.known_ahead import controls_ahead, pictures_ahead, scores_ahead
from probes.inputs.prompts import PromptRecord, read_prompts
from probes.inputs.truth import judge_for, testbed_alignment
from probes.model.loading import load
from probes.paths import takes_paths
from probes.report.html import write_report
from probes.runs.folder import Run
from probes.runs.progress import bars
from probes.runs.provenance import describe_input
from probes.testbed.checkpoint import Checkpoint
from probes.types import Subject
from shield.detectors import DETECTORS
from shield.runtime.arguments import as_thresholds
from shield.thresholds import Threshold


@takes_paths
def audit(
    model: str,
    out: Path,
    *,
    quick: bool = False,
    prompts: Path | None = None,
    column: str | None = None,
    limit: int | None = None,
    twin: str | None = None,
    device: str = "auto",
    resume: bool = False,
    plan: AuditPlan | None = None,
    show_progress: bool = True,
    thresholds: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    pipe: Any = None,
) -> Done:
    """Run the whole loop into ``out`` and render its report.

    ``model`` is "testbed", a folder or a hub id, or what a loaded ``pipe`` is called; ``twin`` a clean model that never
    saw the works (the testbed has one).
    ``thresholds`` is a folder of those that flag, by default the stored ones. What will be known of one's own prompts
    and what not is told to ``say`` before the first picture.
    Without ``prompts`` the testbed's own works are audited. What can't be judged is skipped and listed in
    summary["limits"]. AuditError without prompts for a model nothing is known about; RunError for a folder that holds
    another run; PromptFileError, WeightsError as they say.
    """
    checkpoint = Checkpoint.of(model, pipe)
    if prompts is None and checkpoint.twin is None:
        raise AuditError(f"Nothing is known about what {model} was trained on: give a prompt file with --prompts.")
    targets = read_prompts(prompts, column=column, limit=limit) if prompts else []
    checkpoint.check_twin(twin)
    twin = twin or checkpoint.twin
    inputs = [describe_input(prompts)] if prompts else []
    checkpoint = checkpoint.loaded(device)
    subject = checkpoint.subject()
    plan = plan or as_usual(QUICK if quick else FULL, checkpoint)
    config = {"model": model, "twin": twin, "quick": quick, "column": column, "limit": limit, "plan": asdict(plan)}
    limits = as_thresholds(thresholds)
    if thresholds is not None:
        config["thresholds"] = str(thresholds)
    ahead = _known_ahead(subject, targets, plan, limits, twin, thresholds) if targets else []
    for sentence in ahead:
        say(sentence)
    with Run.start(
        out,
        config,
        resume=resume,
        kind="audit",
        inputs=inputs,
        model={"name": model, "sha256": subject.sha256()},
        seeds=plan.picture_seeds,
    ) as run:
        run.note(known_ahead=ahead)
        known = known_about(checkpoint, targets, plan, device, twin)
        with bars(show_progress) as track:
            summary = complete(AuditSession(run, subject, known, plan, track, thresholds=limits))
        run.finish("complete")
    return Done(out, write_report(out), summary)


def _known_ahead(
    subject: Subject,
    targets: list[PromptRecord],
    plan: AuditPlan,
    thresholds: list[Threshold],
    twin: str | None,
    folder: Path | None,
) -> list[str]:
    """What an audit of one's own prompts will be able to say."""
    limit, why = threshold_ahead(subject, plan.sampling, DETECTORS[plan.detectors[0]](), thresholds, folder)
    return [
        *scores_ahead(limit, why),
        *pictures_ahead(targets, len(plan.picture_seeds), plan.benign),
        *controls_ahead(twin is not None),
    ]


def as_usual(plan: AuditPlan, checkpoint: Checkpoint) -> AuditPlan:
    """The plan with the steps, the guidance and, on the testbed, the localizer's setting and learning rate that this
    model asks for.
    """
    steps, guidance = checkpoint.sampling()
    localizer, hardening = plan.localizer, plan.hardening
    if checkpoint.truth is not None:
        scenes = checkpoint.truth.scenes(split="dev")[:BASE_SCENES]
        localizer = replace(TESTBED_LOCALIZER, base=tuple(scene.caption for scene in scenes))
        hardening = replace(hardening, schedule=replace(hardening.schedule, lr=TESTBED_LR))
    return replace(
        plan,
        hardening=hardening,
        sampling=replace(plan.sampling, steps=steps, guidance_scale=guidance),
        localizer=localizer.sampled(steps, guidance),
    )


def known_about(
    checkpoint: Checkpoint, targets: list[PromptRecord], plan: AuditPlan, device: str, twin: str | None
) -> GroundTruth:
    """Ground truth, criterion and twin for this model: all of it on the testbed, what there is elsewhere."""
    manifest = checkpoint.truth
    cohorts = (
        cohorts_of_prompts(targets, manifest, plan.sizes)
        if targets or manifest is None
        else cohorts_of_manifest(manifest, plan.sizes)
    )
    clean = Subject(load(twin, device=device), twin) if twin else None
    judge, limits = judge_for(manifest, cohorts)
    cohorts = replace(cohorts, limits=(*cohorts.limits, *limits))
    return GroundTruth(cohorts, judge, clean, testbed_alignment() if manifest else None)
