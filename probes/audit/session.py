"""One audit while it runs: the model, what is known about it, the run folder, and how pictures and attacks get there.

The stages are above it: probes/audit/stages.py names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from probes.attacks import TextFree
from probes.audit.search import Searches
from probes.audit.text_free import drawn_without_text, judge_of_parts
from probes.drawing.agreement import agreement_figures
from probes.drawing.draw import Draw, Job, aligned, drawn_by_pipeline, record_stage
from probes.inputs.cohorts import Cohorts
from probes.inputs.prompts import PromptRecord
from probes.metrics import Alignment, CopyJudge
from probes.report.drift import drift
from probes.report.figures import detector_figures, utility
from probes.report.summary import Summary, summary_of
from probes.runs.folder import Run, record_id
from probes.runs.progress import Track
from probes.runs.records import Record
from probes.runs.stage_log import Skip, Stages
from probes.scan.flagged import highest_prompts
from probes.types import Criterion, Subject, UnitMask
from shield.detectors import DETECTORS
from shield.model.assets import stored_thresholds
from shield.thresholds import Threshold
from shield.types import Detector

if TYPE_CHECKING:
    from probes.audit.plan import AuditPlan

NOTHING = "No prompt was flagged or came out as a copy, so there is nothing to locate, prune or attack."
NO_REFERENCE = "None of the memorized prompts has a reference picture, so an attack has no goal."
NO_NONMEMBER = "There is no matched non-member with a picture, so an attack's success can't be told from injection."


@dataclass(frozen=True)
class GroundTruth:
    """What is known about a model beside its weights. None: not known, and what needs it is skipped."""

    cohorts: Cohorts
    judge: Criterion | None
    twin: Subject | None
    alignment: Alignment | None


class AuditSession:
    """What an audit's stages share. The records of the run are read once and held.

    ``mask`` takes the place of stage "localize"; an empty one leaves the model as it is.
    """

    def __init__(
        self,
        run: Run,
        subject: Subject,
        truth: GroundTruth,
        plan: AuditPlan,
        track: Track,
        mask: UnitMask | None = None,
        thresholds: Sequence[Threshold] | None = None,
    ) -> None:
        self.run, self.subject, self.truth, self.plan, self.track = run, subject, truth, plan, track
        self.cohorts, self.given = truth.cohorts, mask
        self.thresholds = stored_thresholds() if thresholds is None else thresholds
        self.detectors = [DETECTORS[name]() for name in plan.detectors]
        denoisers = [subject.denoiser] + ([truth.twin.denoiser] if truth.twin else [])
        self.stages = Stages(run.folder, *denoisers)
        run.hold()

    def records(self, stage: str) -> list[Record]:
        """What the run holds of a stage."""
        return [record for record in self.run.records() if record["stage"] == stage]

    @property
    def members(self) -> set[str]:
        """Ids of the works that are judged."""
        return {target.id for target in self.cohorts.members}

    @property
    def metric(self) -> str | None:
        """The score that copies are told by; None without a copy criterion."""
        return self.truth.judge.metrics[0].name if isinstance(self.truth.judge, CopyJudge) else None

    @property
    def located(self) -> bool:
        """Whether there is a mask."""
        return self.given is not None or self.stages.complete("localize")

    def mask(self) -> UnitMask:
        """The located or the given mask; Skip if nothing was located."""
        if self.given is not None:
            return self.given
        if not self.located:
            raise Skip(NOTHING)
        return UnitMask.load(self.run.folder / "mask.safetensors")

    def draw(self, stage: str, subject: Subject, jobs: Sequence[Job], draw: Draw | None = None) -> None:
        """Pictures of a stage, with detector scores from the same pass and, where known, alignment and verdicts."""
        draw = draw or drawn_by_pipeline(subject, self.plan.sampling, self._detectors_for(jobs))
        record_stage(
            self.run,
            stage,
            subject.name,
            jobs,
            aligned(draw, self.truth.alignment),
            judge=self.truth.judge,
            batch_size=self.plan.sampling.batch_size,
            progress=self.track(stage.replace("_", " ")),
        )

    def _detectors_for(self, jobs: Sequence[Job]) -> Sequence[Detector]:
        # A detector's score of an embedding that an attack made isn't one of a prompt.
        return [] if any(job.prompt_embeds is not None for job in jobs) else self.detectors

    def attack(
        self, stage: str, start: str, subject: Subject, targets: Sequence[PromptRecord], steps: int | None = None
    ) -> dict[str, Any]:
        """Search, then draw at every snapshot; step 0 from the caption repeats the records of stage ``start``.

        ``steps`` takes the place of the plan's snapshots: one search of so many steps, drawn at its end.
        """
        plan, with_goal = self.plan, [target for target in targets if target.reference is not None]
        if steps is not None:
            plan = replace(plan, attack=replace(plan.attack, steps=steps), snapshots=(steps,))
        if not with_goal:
            raise Skip(NO_NONMEMBER if "nonmember_attacked" in stage else NO_REFERENCE)
        if isinstance(plan.attack, TextFree):
            return self._probe(stage, subject, with_goal, plan.attack)
        searches = Searches(
            self.run.folder / "embeddings" / stage, plan.attack, plan.snapshots, plan.init, plan.init_prompt
        )
        searches.search(subject, with_goal, self.track(stage.replace("_", " ") + ": search"))
        repeated = 0 in plan.snapshots and plan.init == "caption"
        if repeated:
            self._repeat(stage, start, {target.id for target in with_goal})
        steps_drawn = [steps for steps in plan.snapshots if steps > 0 or not repeated]
        jobs = []
        for target in with_goal:
            embeds = searches.embeds(target)
            jobs += [Job(target, seed, embeds[steps], steps) for steps in steps_drawn for seed in plan.picture_seeds]
        self.draw(stage, subject, jobs)
        found = {target.id: words for target in with_goal if (words := searches.prompts(target))}
        return {
            "attack": plan.attack.name,
            "steps": plan.attack.steps,
            "batch": plan.attack.batch,
            "init": plan.init,
            "evaluations_per_work": plan.attack.evaluations,
            "works": len(with_goal),
            **({"prompts": found} if found else {}),
        }

    def _probe(self, stage: str, subject: Subject, targets: Sequence[PromptRecord], probe: TextFree) -> dict[str, Any]:
        """Draw without text at every level. Nothing is searched, and the caption has no part in it."""
        plan = self.plan
        for level in plan.snapshots:
            record_stage(
                self.run,
                stage,
                subject.name,
                [Job(target, seed, None, level) for target in targets for seed in plan.picture_seeds],
                drawn_without_text(subject, plan.sampling, probe, level),
                judge=judge_of_parts(probe, level, self.truth.judge, self.cohorts),
                batch_size=plan.sampling.batch_size,
                progress=self.track(f"{stage.replace('_', ' ')}: {level} %"),
            )
        return {"attack": probe.name, "levels": list(plan.snapshots), "works": len(targets)}

    @property
    def start(self) -> str:
        """The stage that shows what the caption gives on the attacked model."""
        return "before" if self.given is not None and not self.given.masks else "pruned"

    def _repeat(self, stage: str, start: str, items: set[str]) -> None:
        done = self.run.done_ids()
        for record in [record for record in self.records(start) if record["item"] in items]:
            identity = record_id(
                self.run.config,
                record["prompt"],
                record["seed"],
                stage=stage,
                attack_steps=0,
                model=record["model"],
                item=record["item"],
            )
            if identity not in done:
                self.run.append({**record, "id": identity, "stage": stage, "attack_steps": 0})

    def summary(self) -> Summary:
        """All figures of the run so far."""
        records, judge = list(self.run.records()), self.truth.judge
        hardened = self.stages.detail("harden") if self.stages.complete("harden") else None
        found: Summary = {
            **summary_of(
                self.run,
                records,
                self.stages.entries,
                members=self.members,
                metric=self.metric,
                criterion=judge.describe() if isinstance(judge, CopyJudge) else {},
                limits=[*self.cohorts.limits, *self.stages.limits()],
            ),
            "model": self.subject.name,
            "quick": self.run.config.get("quick", False),
            "drift": [row for stage in ("pruned", "hardened") for row in drift(self.run.folder, records, stage)],
            "hardening": None if hardened is None else {**hardened, "utility": utility(records, "hardened")},
            # Suspects were chosen by the detector itself; a figure against them would be circular.
            "detector": {} if self.cohorts.prompts else detector_figures(records, self.members),
            "mask": self.stages.detail("localize"),
        }
        if self.cohorts.prompts:  # what is told even where nothing is known beside them
            scanned = [record for record in records if (record["stage"], record["kind"]) == ("scan", "prompt")]
            found["highest"] = highest_prompts(scanned, self.plan.detectors[0])
            found["agreement"] = agreement_figures(self.run, self.plan.picture_seeds)
        return found
