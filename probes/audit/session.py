"""The stages of an audit, one method each; probes/audit/audit.py says what they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.audit.search import Searches
from probes.drawing.draw import (
    Draw,
    Job,
    aligned,
    drawn_by_pipeline,
    drawn_by_shield,
    jobs_for,
    record_stage,
    record_works,
)
from probes.inputs.cohorts import Cohorts
from probes.inputs.prompts import Target
from probes.localizers import RandomMask
from probes.metrics import Alignment, CopyJudge
from probes.pruners import pruned
from probes.report.drift import drift
from probes.report.figures import attack_curve, detector_figures, gaps, ladder, stage_rows, utility
from probes.runs.folder import Record, Run, record_id
from probes.runs.progress import Track
from probes.runs.stage_log import Skip, Stages
from probes.types import Criterion, Subject, UnitMask
from shield.detectors import DETECTORS
from shield.errors import NotCalibratedError
from shield.model.assets import stored_thresholds
from shield.types import Detector

if TYPE_CHECKING:
    from probes.audit.plan import Plan

NOTHING = "No prompt was flagged or came out as a copy, so there is nothing to locate, prune or attack."
NO_REFERENCE = "None of the memorized prompts has a reference picture, so an attack has no goal."
NO_NONMEMBER = "There is no matched non-member with a picture, so an attack's success can't be told from injection."
NO_TWIN = "There is no clean twin of this model, so nobody can say what an attack injects into a model without it."


@dataclass(frozen=True)
class GroundTruth:
    """What is known about a model beside its weights. None: not known, and what needs it is skipped."""

    cohorts: Cohorts
    judge: Criterion | None
    twin: Subject | None
    alignment: Alignment | None


class AuditSession:
    """One audit: every stage once, in order, each resumable. The verbs prune and attack are some stages of it.

    ``mask`` takes the place of stage "localize"; an empty one leaves the model as it is.
    """

    def __init__(
        self, run: Run, subject: Subject, known: GroundTruth, plan: Plan, track: Track, mask: UnitMask | None = None
    ) -> None:
        self.run, self.subject, self.truth, self.plan, self.track = run, subject, known, plan, track
        self.cohorts, self.given = known.cohorts, mask
        self.detectors = [DETECTORS[name]() for name in plan.detectors]
        denoisers = [subject.denoiser] + ([known.twin.denoiser] if known.twin else [])
        self.stages = Stages(run.folder, *denoisers)

    def works(self) -> None:
        record_works(self.run, self.cohorts.drawn())

    def scan(self) -> None:
        draw = drawn_by_pipeline(
            self.subject, self.plan.sampling, self.detectors, pictures=False, thresholds=stored_thresholds()
        )
        self.draw("scan", self.subject, jobs_for(self.cohorts.drawn(), self.plan.scan_seeds), draw)

    def before(self) -> None:
        self.draw("before", self.subject, jobs_for(self.cohorts.drawn(), self.plan.picture_seeds))

    def shielded(self) -> None:
        """Members, suspects and non-members through the shield; skipped where it isn't calibrated."""
        cohorts = self.cohorts
        targets = [target for target in cohorts.drawn() if target.kind != "scene" and target not in cohorts.ladder]
        targets += [target for target in cohorts.members if target not in targets]
        from shield import Shield

        try:
            draw = drawn_by_shield(Shield(self.subject.pipe, calibrate="never"), self.plan.sampling)
            self.draw("shielded", self.subject, jobs_for(targets, self.plan.picture_seeds), draw)
        except NotCalibratedError as error:
            raise Skip(f"The shield wasn't tried: {error}") from error

    def twin(self) -> None:
        if self.truth.twin is None:
            raise Skip(NO_TWIN)
        self.draw("twin", self.truth.twin, jobs_for(self.cohorts.members, self.plan.picture_seeds))

    def localize(self) -> dict[str, Any]:
        if not self.cohorts.locate:
            raise Skip(NOTHING)
        prompts = [target.prompt for target in self.cohorts.locate]
        located = self.plan.localizer.locate(
            self.subject, prompts, seed=self.plan.locate_seed, progress=self.track("localize")
        )
        located.mask.save(self.run.folder / "mask.safetensors")
        control = RandomMask(like=located.mask).locate(self.subject, seed=self.plan.locate_seed).mask
        return {
            "localizer": self.plan.localizer.name,
            "prompts": [target.id for target in self.cohorts.locate],
            "density": located.mask.density(),
            "weights": located.mask.count(),
            "densities": located.mask.densities(),
            "iou_random": located.mask.iou(control),
        }

    def mask(self) -> UnitMask:
        """The located or the given mask; Skip if nothing was located."""
        if self.given is not None:
            return self.given
        if not self.stages.complete("localize"):
            raise Skip(NOTHING)
        return UnitMask.load(self.run.folder / "mask.safetensors")

    def pruned(self) -> None:
        cohorts = self.cohorts
        targets = dict.fromkeys([*cohorts.members, *cohorts.nonmembers, *cohorts.scenes])
        with pruned(self.subject, self.mask()):
            self.draw("pruned", self.subject, jobs_for(list(targets), self.plan.picture_seeds))

    def random_pruned(self) -> None:
        control = RandomMask(like=self.mask()).locate(self.subject, seed=self.plan.locate_seed).mask
        with pruned(self.subject, control):
            self.draw("random_pruned", self.subject, jobs_for(self.cohorts.members, self.plan.picture_seeds))

    def attacked(self) -> dict[str, Any]:
        with pruned(self.subject, self.mask()):
            return self.attack("attacked", self.start, self.subject, self.cohorts.members)

    def nonmember_attacked(self) -> dict[str, Any]:
        with pruned(self.subject, self.mask()):
            return self.attack("nonmember_attacked", self.start, self.subject, self.cohorts.nonmembers)

    def twin_attacked(self) -> dict[str, Any]:
        if self.truth.twin is None:
            raise Skip(NO_TWIN)
        return self.attack("twin_attacked", "twin", self.truth.twin, self.cohorts.members)

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

    def attack(self, stage: str, start: str, subject: Subject, targets: Sequence[Target]) -> dict[str, Any]:
        """Search, then draw at every snapshot; step 0 from the caption repeats the records of stage ``start``."""
        plan, with_goal = self.plan, [target for target in targets if target.reference is not None]
        if not with_goal:
            raise Skip(NO_NONMEMBER if stage.endswith("nonmember_attacked") else NO_REFERENCE)
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

    @property
    def start(self) -> str:
        """The stage that shows what the caption gives on the attacked model."""
        return "before" if self.given is not None and not self.given.masks else "pruned"

    def _repeat(self, stage: str, start: str, items: set[str]) -> None:
        done = self.run.done_ids()
        for record in [record for record in self.run.records() if record["stage"] == start and record["item"] in items]:
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

    def _hardening(self, records: Sequence[Record]) -> dict[str, Any] | None:
        if not self.stages.complete("harden"):
            return None
        return {**(self.stages.entry("harden") or {})["detail"], "utility": utility(records, "hardened")}

    def summary(self) -> dict[str, Any]:
        """All figures of the run so far; see probes/report/figures.py."""
        records, judge = list(self.run.records()), self.truth.judge
        metric = judge.metrics[0].name if isinstance(judge, CopyJudge) else None
        members = {target.id for target in self.cohorts.members}
        curve = attack_curve(records, metric)
        mask = (self.stages.entry("localize") or {}).get("detail") or {}
        return {
            "format": 1,
            "model": self.subject.name,
            "model_sha256": self.run.about["model"].get("sha256"),
            "quick": self.run.config.get("quick", False),
            "criterion": judge.describe() if isinstance(judge, CopyJudge) else {},
            "rows": stage_rows(records, members, metric),
            "curve": curve,
            "gaps": gaps(curve),
            "ladder": ladder(records, metric),
            "utility": utility(records),
            "drift": [row for stage in ("pruned", "hardened") for row in drift(self.run.folder, records, stage)],
            "hardening": self._hardening(records),
            # Suspects were chosen by the detector itself; a figure against them would be circular.
            "detector": {} if self.cohorts.prompts else detector_figures(records, members),
            "mask": mask,
            "cost": [
                {key: entry.get(key) for key in ("stage", "status", "seconds", "evaluations")}
                for entry in self.stages.entries
            ],
            "limits": [*self.cohorts.limits, *self.stages.limits()],
        }
