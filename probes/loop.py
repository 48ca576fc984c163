"""The stages of an audit, one method each; probes/audit.py says what they write."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from probes.generate import encode_pictures, encode_prompts
from probes.localizers import RandomMask
from probes.metrics import Alignment, CopyJudge
from probes.panel import Panel, with_suspects
from probes.progress import Track
from probes.prompts import Target
from probes.pruners import pruned
from probes.runs import Run, record_id, write_json
from probes.scan import (
    Draw,
    Job,
    aligned,
    drawn_by_pipeline,
    drawn_by_shield,
    jobs_for,
    record_stage,
    reference_picture,
)
from probes.stages import Skip, Stages
from probes.summary import attack_curve, detector_figures, gaps, ladder, stage_rows, utility
from probes.types import Criterion, Goal, Subject, UnitMask
from shield.detectors import DETECTORS
from shield.errors import NotCalibratedError, WeightsError
from shield.thresholds import Threshold, load_thresholds
from shield.weights import weights_dir

if TYPE_CHECKING:
    from probes.audit import Plan

NOTHING = "No prompt was flagged or came out as a copy, so there is nothing to locate, prune or attack."
NO_REFERENCE = "None of the memorized prompts has a reference picture, so an attack has no goal."
NO_TWIN = "There is no clean twin of this model, so nobody can say what an attack injects into a model without it."


@dataclass(frozen=True)
class Known:
    """What is known about a model beside its weights. None: not known, and what needs it is skipped."""

    panel: Panel
    judge: Criterion | None
    twin: Subject | None
    alignment: Alignment | None


class Loop:
    """One audit: every stage once, in order, each resumable."""

    def __init__(self, run: Run, subject: Subject, known: Known, plan: Plan, track: Track) -> None:
        self.run, self.subject, self.known, self.plan, self.track = run, subject, known, plan, track
        self.panel = known.panel
        self.detectors = [DETECTORS[name]() for name in plan.detectors]
        denoisers = [subject.denoiser] + ([known.twin.denoiser] if known.twin else [])
        self.stages = Stages(run.folder, *denoisers)

    def complete(self) -> dict[str, Any]:
        """Run what isn't done yet, write summary.json, return it."""
        self._do({"work": self.works, "scan": self.scan, "before": self.before, "shielded": self.shielded})
        self.panel = with_suspects(self.panel, list(self.run.records()))
        self._do({"twin": self.twin, "localize": self.localize, "pruned": self.pruned,
                  "random_pruned": self.random_pruned, "attacked": self.attacked,
                  "nonmember_attacked": self.nonmember_attacked, "twin_attacked": self.twin_attacked})
        summary = self.summary()
        write_json(self.run.folder / "summary.json", summary)
        return summary

    def _do(self, stages: Mapping[str, Callable[[], Mapping[str, Any] | None]]) -> None:
        for stage, work in stages.items():
            self.stages.do(stage, work)

    def works(self) -> None:
        """Copies of the reference pictures, so that the run folder can be read on its own."""
        done = self.run.done_ids()
        folder = self.run.folder / "pictures" / "work"
        for target in self.panel.drawn():
            identity = record_id(self.run.config, target.prompt, None, stage="work", item=target.id)
            if target.reference is None or identity in done:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{target.id}.png"
            reference_picture(target.reference).save(path)
            about = {key: value for key, value in asdict(target).items() if key not in ("id", "reference")}
            self.run.append({"id": identity, "stage": "work", "item": target.id, **about, "model": None, "seed": None,
                             "attack_steps": None, "picture": path.relative_to(self.run.folder).as_posix(),
                             "scores": {}, "copied": None, "unjudged": "it is the reference itself"})

    def scan(self) -> None:
        draw = drawn_by_pipeline(self.subject, self.plan.sampling, self.detectors, pictures=False,
                                 thresholds=self.thresholds())
        self._draw("scan", self.subject, jobs_for(self.panel.drawn(), self.plan.scan_seeds), draw)

    def thresholds(self) -> list[Threshold]:
        """Stored thresholds; none if nothing was shipped."""
        try:
            return load_thresholds(weights_dir() / "thresholds")
        except WeightsError:
            return []

    def before(self) -> None:
        self._draw("before", self.subject, jobs_for(self.panel.drawn(), self.plan.picture_seeds))

    def shielded(self) -> None:
        """Members, suspects and non-members through the shield; skipped where it isn't calibrated."""
        panel = self.panel
        targets = [target for target in panel.drawn() if target.kind != "scene" and target not in panel.ladder]
        targets += [target for target in panel.members if target not in targets]
        from shield import Shield

        try:
            draw = drawn_by_shield(Shield(self.subject.pipe), self.plan.sampling)
            self._draw("shielded", self.subject, jobs_for(targets, self.plan.picture_seeds), draw)
        except NotCalibratedError as error:
            raise Skip(f"The shield wasn't tried: {error}") from error

    def twin(self) -> None:
        if self.known.twin is None:
            raise Skip(NO_TWIN)
        self._draw("twin", self.known.twin, jobs_for(self.panel.members, self.plan.picture_seeds))

    def localize(self) -> dict[str, Any]:
        if not self.panel.locate:
            raise Skip(NOTHING)
        prompts = [target.prompt for target in self.panel.locate]
        located = self.plan.localizer.locate(self.subject, prompts, seed=self.plan.locate_seed,
                                             progress=self.track("localize"))
        located.mask.save(self.run.folder / "mask.safetensors")
        control = RandomMask(like=located.mask).locate(self.subject, seed=self.plan.locate_seed).mask
        return {"localizer": self.plan.localizer.name, "prompts": [target.id for target in self.panel.locate],
                "density": located.mask.density(), "weights": located.mask.count(),
                "densities": located.mask.densities(), "iou_random": located.mask.iou(control)}

    def mask(self) -> UnitMask:
        if not self.stages.complete("localize"):
            raise Skip(NOTHING)
        return UnitMask.load(self.run.folder / "mask.safetensors")

    def pruned(self) -> None:
        panel = self.panel
        targets = dict.fromkeys([*panel.members, *panel.nonmembers, *panel.scenes])
        with pruned(self.subject, self.mask()):
            self._draw("pruned", self.subject, jobs_for(list(targets), self.plan.picture_seeds))

    def random_pruned(self) -> None:
        control = RandomMask(like=self.mask()).locate(self.subject, seed=self.plan.locate_seed).mask
        with pruned(self.subject, control):
            self._draw("random_pruned", self.subject, jobs_for(self.panel.members, self.plan.picture_seeds))

    def attacked(self) -> dict[str, Any]:
        with pruned(self.subject, self.mask()):
            return self._attack("attacked", "pruned", self.subject, self.panel.members)

    def nonmember_attacked(self) -> dict[str, Any]:
        with pruned(self.subject, self.mask()):
            return self._attack("nonmember_attacked", "pruned", self.subject, self.panel.nonmembers)

    def twin_attacked(self) -> dict[str, Any]:
        if self.known.twin is None:
            raise Skip(NO_TWIN)
        return self._attack("twin_attacked", "twin", self.known.twin, self.panel.members)

    def _draw(self, stage: str, subject: Subject, jobs: Sequence[Job], draw: Draw | None = None) -> None:
        draw = draw or drawn_by_pipeline(subject, self.plan.sampling)
        record_stage(self.run, stage, subject.name, jobs, aligned(draw, self.known.alignment), judge=self.known.judge,
                     batch_size=self.plan.sampling.batch_size, progress=self.track(stage.replace("_", " ")))

    def _attack(self, stage: str, start: str, subject: Subject, targets: Sequence[Target]) -> dict[str, Any]:
        """Search, then draw at every snapshot; step 0 repeats the records of stage ``start``."""
        with_goal = [target for target in targets if target.reference is not None]
        if not with_goal:
            raise Skip(NO_REFERENCE)
        self._search(stage, subject, with_goal)
        jobs = []
        for target in with_goal:
            embeds = load_file(self._embeds_file(stage, target))
            jobs += [Job(target, seed, embeds[str(steps)], steps) for steps in self.plan.snapshots if steps > 0
                     for seed in self.plan.picture_seeds]
        if 0 in self.plan.snapshots:
            self._repeat(stage, start, {target.id for target in with_goal})
        self._draw(stage, subject, jobs)
        attack = self.plan.attack
        return {"attack": attack.name, "steps": attack.steps, "batch": attack.batch, "init": "caption",
                "evaluations_per_work": attack.steps * attack.batch, "works": len(with_goal)}

    def _search(self, stage: str, subject: Subject, targets: Sequence[Target]) -> None:
        """One file of embeddings for each target; those that are there already aren't searched again."""
        advance, attack = self.track(stage.replace("_", " ") + ": search"), self.plan.attack
        together = max(1, attack.rows // attack.batch)
        for start in range(0, len(targets), together):
            group = targets[start:start + together]
            if not all(self._embeds_file(stage, target).exists() for target in group):
                for target, found in zip(group, attack.search(subject, self._goals(subject, group),
                                                              snapshots=self.plan.snapshots), strict=True):
                    path = self._embeds_file(stage, target)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = path.with_suffix(".part")
                    save_file({**{str(steps): embeds for steps, embeds in found.prompt_embeds.items()},
                               "losses": torch.tensor(found.losses)}, part)
                    part.replace(path)
            advance(start + len(group), len(targets))

    def _goals(self, subject: Subject, targets: Sequence[Target]) -> list[Goal]:
        pictures = [reference_picture(target.reference) for target in targets if target.reference is not None]
        latents = encode_pictures(subject, pictures)
        embeds = encode_prompts(subject, [target.prompt for target in targets])
        return [Goal(target.id, latents[row], embeds[row], zlib.crc32(target.id.encode()))
                for row, target in enumerate(targets)]

    def _embeds_file(self, stage: str, target: Target) -> Path:
        return self.run.folder / "embeddings" / stage / f"{target.id}.safetensors"

    def _repeat(self, stage: str, start: str, items: set[str]) -> None:
        done = self.run.done_ids()
        for record in [record for record in self.run.records() if record["stage"] == start and record["item"] in items]:
            identity = record_id(self.run.config, record["prompt"], record["seed"], stage=stage, attack_steps=0,
                                 model=record["model"], item=record["item"])
            if identity not in done:
                self.run.append({**record, "id": identity, "stage": stage, "attack_steps": 0})

    def summary(self) -> dict[str, Any]:
        """All figures of the run so far; see probes/summary.py."""
        records, judge = list(self.run.records()), self.known.judge
        metric = judge.metrics[0].name if isinstance(judge, CopyJudge) else None
        members = {target.id for target in self.panel.members}
        curve = attack_curve(records, metric)
        mask = (self.stages.entry("localize") or {}).get("detail") or {}
        return {"format": 1, "model": self.subject.name, "model_sha256": self.run.about["model"].get("sha256"),
                "quick": self.run.config.get("quick", False),
                "criterion": judge.describe() if isinstance(judge, CopyJudge) else {},
                "rows": stage_rows(records, members, metric), "curve": curve, "gaps": gaps(curve),
                "ladder": ladder(records, metric), "utility": utility(records),
                # Suspects were chosen by the detector itself; a figure against them would be circular.
                "detector": {} if self.panel.prompts else detector_figures(records, members), "mask": mask,
                "cost": [{key: entry.get(key) for key in ("stage", "status", "seconds", "evaluations")}
                         for entry in self.stages.entries],
                "limits": [*self.panel.limits, *self.stages.limits()]}
