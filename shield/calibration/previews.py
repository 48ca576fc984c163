"""Thresholds of the trajectory watch: how like the protected pictures do benign prompts come out, step by step?

Each batch runs up to the last step that is watched, behind the same code that watches later.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from shield.calibration.detectors import NegativeSampling, versions
from shield.errors import BadRequestError
from shield.hooks.forward import Forward
from shield.hooks.intercept import intercepted
from shield.model.families import family_of
from shield.model.prediction import refuse_unreadable
from shield.protected.gallery import Gallery
from shield.runtime.call import ImageState, Plan
from shield.runtime.controller import StepController
from shield.runtime.policy import Policy
from shield.runtime.preview_checks import Check, PreviewMonitor, picture_size, watch_of
from shield.runtime.settings import Models, models_of
from shield.thresholds import Setting, Threshold, calibrated
from shield.types import Score, Screen

LOOKING = Policy(detectors=(), on_flag="report", on_unscored="pass", retries=0)


def calibrate_watch(
    pipe: Any,
    steps: Sequence[float],
    prompts: Sequence[str],
    seeds: Sequence[int],
    fpr: float,
    model: str,
    gallery: Gallery | None = None,
    concepts: Screen | None = None,
    preview: str = "linear",
    sampling: NegativeSampling = NegativeSampling(),  # noqa: B008
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Threshold]:
    """One threshold for each of the `steps` (shares of the schedule, as in Policy.watch_steps) and for each of the
    gallery and the concepts (a Meaning), that flags at most `fpr` of prompts like these, known to be benign.

    Raises BadRequestError without prompts or anything to compare with, and for too few prompts for the rate.
    """
    watch = calibration_watch(pipe, steps, gallery, concepts, preview)
    scores, settings = looked(pipe, watch, prompts, seeds, sampling, progress)
    about = {"prompts": len(set(prompts)), "seeds": list(seeds), "versions": versions(), **(provenance or {})}
    about |= {"works": 0 if gallery is None else len(gallery)}
    about |= {} if watch.preview is None else {"preview_explained": watch.preview.explained}
    return [
        calibrated(check, [score.value for score in said], fpr, settings[check], model, about)
        for check, said in zip(watch.checks, scores, strict=True)
    ]


def calibration_watch(
    pipe: Any, steps: Sequence[float], gallery: Gallery | None, concepts: Screen | None = None, preview: str = "linear"
) -> PreviewMonitor:
    """The watch that a policy with these steps has. Raises BadRequestError when there is nothing to compare with."""
    watch = watch_of(pipe, replace(LOOKING, watch_steps=tuple(steps), preview=preview), gallery, concepts)
    if watch is None:
        raise BadRequestError("There is nothing to watch for: give steps, and a gallery or concepts by meaning.")
    return watch


def looked(
    pipe: Any,
    watch: PreviewMonitor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: NegativeSampling = NegativeSampling(),  # noqa: B008
    progress: Callable[[int], None] | None = None,
) -> tuple[list[list[Score]], dict[Check, Setting]]:
    """(for each check its scores over all prompts and seeds, prompts fastest; the settings they hold for). No score has
    a threshold. Raises BadRequestError without prompts.
    """
    if not prompts or not seeds:
        raise BadRequestError(f"{len(prompts)} prompts and {len(seeds)} seeds were given; one of each is needed.")
    work = [(prompt, seed) for seed in seeds for prompt in prompts]
    scores: list[list[Score]] = [[] for _ in watch.checks]
    settings: dict[Check, Setting] = {}
    models = models_of(pipe, watched=True)
    for start in range(0, len(work), sampling.batch_size):
        batch = work[start : start + sampling.batch_size]
        controller = _watched(pipe, models, watch, batch, sampling)
        settings |= controller.settings
        for image in controller.call.images:
            for said, score in zip(scores, image.scores, strict=True):
                said.append(score)
        if progress is not None:
            progress(len(batch))
    return scores, settings


class _Done(Exception):
    """Ends a pipeline call once every check has been made. Never leaves this file."""


def _watched(
    pipe: Any, models: Models, watch: PreviewMonitor, batch: Sequence[tuple[str, int]], sampling: NegativeSampling
) -> StepController:
    """One call, up to its last check; the controller's images hold the scores in the order of `watch.checks`."""
    refuse_unreadable(pipe.scheduler)
    options = dict(sampling.options)
    plan = Plan(
        family=family_of(pipe),
        policy=LOOKING,
        thresholds=(),
        models=models,
        guided=False,
        own_uncond=False,
        watch=watch,
        size=picture_size(pipe, options.get("height"), options.get("width")),
    )
    images = [ImageState(row, prompt) for row, (prompt, _) in enumerate(batch)]
    controller = StepController(pipe, plan, images, lambda: sampling.guidance_scale)

    def on_forward(forward: Forward) -> None:
        controller.on_forward(forward)
        if len(images[0].scores) == len(watch.checks):
            raise _Done

    noises = [torch.Generator("cpu").manual_seed(seed) for _, seed in batch]
    call = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance_scale, "generator": noises}
    with torch.no_grad(), suppress(_Done), intercepted(pipe, on_forward):
        pipe(prompt=[prompt for prompt, _ in batch], **call, **options)
    return controller
