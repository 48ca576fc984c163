"""Prompts scored at several points of the schedule, flagged by thresholds that share one false-alarm budget.

Unlike a first-step scan this draws every picture as far as the last point, with guidance, because guidance decides
where the trajectory goes: for 0.4 of 25 steps 22 denoiser evaluations a prompt, where the first step takes one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from probes.drawing.draw import Draw, Drawn, Job, Sampling, condition
from probes.model.generate import generators, quiet
from probes.types import Subject
from shield.calibration.trajectories import scores_in, settings_of
from shield.errors import BadRequestError, NotCalibratedError
from shield.hooks.recording import recorded
from shield.hooks.steps import steps_of
from shield.runtime.settings import models_of
from shield.runtime.trajectory import DetectorAt, can_look_again, detectors_at, looks_apart, points_read
from shield.thresholds import Setting, Threshold, found
from shield.types import Detector


def looks_for(detectors: Sequence[Detector], points: Sequence[float]) -> tuple[DetectorAt, ...]:
    """Every detector at each point, each with a budget of its own. BadRequestError for one that can't look again."""
    if unable := [one.name for one in detectors if not can_look_again(one)]:
        raise BadRequestError(f"A trajectory is scored by detectors of one step; {', '.join(unable)} can't look again.")
    return tuple(look for one in detectors for look in detectors_at((one,), points))


def drawn_along(
    subject: Subject,
    sampling: Sampling,
    asked: Sequence[DetectorAt],
    *,
    pictures: bool = False,
    thresholds: Sequence[Threshold] = (),
) -> Draw:
    """Runs the bare pipeline as far as the last look, or to its end with ``pictures``.

    A record's scores hold every look's, by detector for the first point and by "DETECTOR at POINT" for later ones. The
    first detector flags, and what looks in its place later: ``flagged`` is true where any of these looks is above its
    threshold, null where none is and one has no threshold or no score. Points that fall on one step are one look, under
    the first one's name.
    """
    models = models_of(subject.pipe)
    needs = frozenset().union(*(one.detector.needs for one in asked))
    limits: dict[DetectorAt, Threshold | None] = {}

    def draw(jobs: Sequence[Job]) -> list[Drawn]:
        images: list[Image.Image | None] = [None] * len(jobs)
        with (
            quiet(subject.pipe),
            torch.no_grad(),
            recorded(subject.pipe, needs, stop=not pictures, extra_uncond=True, points=points_read(asked)) as trace,
        ):
            images = list(
                subject.pipe(
                    **condition(subject, jobs),
                    generator=generators([job.seed for job in jobs]),
                    num_inference_steps=sampling.steps,
                    guidance_scale=sampling.guidance_scale,
                ).images
            )
        steps = steps_of(subject.pipe)
        looks = looks_apart(asked, steps)
        values = scores_in(subject.pipe, looks, trace)
        if not limits:
            settings = settings_of(subject.pipe, looks, trace, models, sampling.guidance_scale)
            limits.update({one: _limit(thresholds, one, settings[one]) for one in looks})
        return [
            _drawn(image, {one: values[one][row] for one in looks}, limits, steps) for row, image in enumerate(images)
        ]

    return draw


def _limit(thresholds: Sequence[Threshold], one: DetectorAt, setting: Setting) -> Threshold | None:
    alike = [each for each in thresholds if each.setting.steps == setting.steps]
    try:
        return found(alike, one, setting)
    except NotCalibratedError:
        return None


def _drawn(
    image: Image.Image | None,
    values: Mapping[DetectorAt, float],
    limits: Mapping[DetectorAt, Threshold | None],
    steps: int,
) -> Drawn:
    first = min(one.point for one in values)
    scores = {
        one.name if one.point == first else f"{one.name} at {one.point:g}": value if math.isfinite(value) else None
        for one, value in values.items()
    }
    about: list[dict[str, Any]] = []
    for one, value in values.items():
        limit = None if (made := limits[one]) is None else made.value
        flagged = None if limit is None or not math.isfinite(value) else value > limit
        about.append({"detector": one.name, "step": one.step(steps), "threshold": limit, "flagged": flagged})
    flagging = next(iter(values)).asked_for
    flags = [each["flagged"] for one, each in zip(values, about, strict=True) if one.asked_for == flagging]
    verdict = True if True in flags else None if None in flags else False
    return Drawn(image, scores, {"flagged": verdict, "trajectory": about}, next(iter(limits.values())))
