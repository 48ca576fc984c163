"""Pictures of probes without text, and the criterion for those of which only a part is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from probes.attacks import TextFree
from probes.drawing.draw import Draw, Drawn, Job, Sampling
from probes.inputs.cohorts import Cohorts
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord
from probes.metrics import CopyJudge, TiledL2, calibrate
from probes.types import Criterion, Judgement, Subject

LEAST = 3  # pictures that a criterion is calibrated on


def drawn_without_text(subject: Subject, sampling: Sampling, probe: TextFree, level: int) -> Draw:
    """Draws jobs with the probe at one level; pictures that don't depend on the work are drawn once for each seed."""
    shared: dict[int, Image] = {}

    def pictures_of(jobs: Sequence[Job]) -> list[Image]:
        return probe.draw(
            subject,
            [reference_picture(job.target.reference) for job in jobs if job.target.reference is not None],
            [job.seed for job in jobs],
            level,
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
        )

    def draw(jobs: Sequence[Job]) -> list[Drawn]:
        if probe.of_works:
            return [Drawn(picture) for picture in pictures_of(jobs)]
        missing = list({job.seed: job for job in jobs if job.seed not in shared}.values())
        if missing:
            shared.update(zip([job.seed for job in missing], pictures_of(missing), strict=True))
        return [Drawn(shared[job.seed]) for job in jobs]

    return draw


@dataclass(frozen=True)
class PartJudge:
    """A criterion on the part of a picture that a probe drew, and the same part of its work."""

    judge_of_part: Criterion
    probe: TextFree
    level: int

    @property
    def name(self) -> str:
        return self.judge_of_part.name

    def judge(self, pictures: Sequence[Image], references: Sequence[Image | None]) -> list[Judgement]:
        """One judgement for each picture against its own work."""
        return self.judge_of_part.judge(
            [self.probe.judged(picture, self.level) for picture in pictures],
            [None if one is None else self.probe.judged(one, self.level) for one in references],
        )


def judge_of_parts(probe: TextFree, level: int, judge: Criterion | None, cohorts: Cohorts) -> Criterion | None:
    """The run's own criterion where whole pictures are compared; else one calibrated on that part of the pictures that
    the run's own is calibrated on: the non-members', or the works' themselves without three of those. None without a
    criterion.
    """
    if judge is None or probe.is_whole:
        return judge
    files, whose = _pictures_of(cohorts.nonmembers), "non-members'"
    if len(files) < LEAST:
        files, whose = _pictures_of(cohorts.members), "works'"
    if len(files) < LEAST:
        return None
    parts = [probe.judged(reference_picture(file), level) for file in files]
    metric, source = TiledL2(), f"leave-one-out neighbors of that part of the {whose} pictures"
    return PartJudge(CopyJudge((metric,), {metric.name: calibrate(metric, parts, source=source)}), probe, level)


def _pictures_of(targets: Sequence[PromptRecord]) -> list[Path]:
    return sorted({target.reference for target in targets if target.reference is not None})
