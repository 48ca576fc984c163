"""Thresholds for several points of the schedule that share one false-alarm budget.

An image is flagged where any look's score is above its threshold, so that thresholds made one by one would flag benign
images as often as there are looks. Here the looks of one detector are brought to one scale and only the largest counts:
a quarter of the benign draws give each look its middle and its spread (from the median to the ninth decile), and the
others' largest standardized scores give the one quantile from which all thresholds follow. The largest score of a new
benign draw is exchangeable with theirs, whatever the looks' distributions and however they depend on each other, so
the rate holds as for a single threshold (split conformal prediction, shield/thresholds.py).

Several detectors split the budget: the first has half of it at least, the others share the other half. What looks in a
detector's place at later points shares its part.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shield.calibration.budget import prompts_needed, rate_interval
from shield.calibration.detectors import NegativeSampling, denoiser_input, traced, versions
from shield.errors import BadRequestError
from shield.hooks.steps import steps_of
from shield.runtime.settings import models_of, running_setting
from shield.runtime.trajectory import DetectorAt, points_read
from shield.thresholds import Setting, Threshold, options_of, quantile
from shield.types import Detector, Trace

FIT = 4  # one draw of so many gives the scales
TINY = 1e-12


def joint_thresholds(
    asked: Sequence[DetectorAt],
    scores: Mapping[DetectorAt, Sequence[float]],
    settings: Mapping[DetectorAt, Setting],
    fpr: float,
    model: str,
    provenance: Mapping[str, Any] | None = None,
) -> list[Threshold]:
    """One threshold for each look, which together flag at most `fpr` of draws like these.

    Args:
        asked: The looks of one budget, the more trusted detector's first.
        scores: Of benign draws; the same draws in the same order for each look.
        settings: What the scores hold for.
        fpr: The wanted false-alarm rate of all looks together.
        model: The checkpoint's name.
        provenance: Where the scores come from.

    Raises:
        BadRequestError: No looks, scores that are no numbers, or too few draws for the rate.
    """
    groups = [[one for one in asked if one.asked_for == detector] for detector in asked_detectors(asked)]
    if not groups:
        raise BadRequestError("There is nothing to calibrate: none of these detectors can look at later steps.")
    made: dict[DetectorAt, Threshold] = {}
    for group, share in zip(groups, budget_shares(len(groups)), strict=True):
        table = np.array([scores[one] for one in group], dtype=float)  # (looks, draws)
        middle, spread = _scales(table[:, ::FIT])
        left = np.delete(table, np.s_[::FIT], axis=1)
        largest = ((left - middle[:, None]) / spread[:, None]).max(axis=0)
        limit, (low, high) = quantile(group[0].name, largest.tolist(), fpr * share)
        about = {**(provenance or {}), "budget_share": share, "draws_for_scale": table.shape[1] - left.shape[1]}
        about |= {"rate_interval": list(rate_interval(left.shape[1], fpr * share))}
        for one, at, unit in zip(group, middle.tolist(), spread.tolist(), strict=True):
            value, interval = at + limit * unit, (at + low * unit, at + high * unit)
            where = (one.name, options_of(one), model, settings[one])
            made[one] = Threshold(*where, value, fpr, left.shape[1], interval, about)
    return [made[one] for one in asked]


def asked_detectors(asked: Sequence[DetectorAt]) -> list[Detector]:
    """The policy's detectors that these looks are of, which split the budget."""
    return list(dict.fromkeys(one.asked_for for one in asked))


def budget_shares(detectors: int) -> list[float]:
    """How the detectors split one false-alarm budget: the first has half at least, the others the rest."""
    return [1.0] if detectors == 1 else [0.5, *[0.5 / (detectors - 1)] * (detectors - 1)]


def draws_needed(fpr: float, detectors: int = 1) -> int:
    """The smallest number of benign draws that the rate can be reached with."""
    rest = prompts_needed(fpr * min(budget_shares(detectors)))
    draws = rest + rest // (FIT - 1)
    while draws - -(-draws // FIT) < rest:
        draws += 1
    return draws


def smallest_joint_rate(draws: int, detectors: int = 1) -> float:
    """The smallest false-alarm rate that so many benign draws can stand for."""
    return 1.0 / ((draws - -(-draws // FIT) + 1) * min(budget_shares(detectors)))


def _scales(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and spread of each look's scores, (looks, draws)."""
    middle, high = np.quantile(table, [0.5, 0.9], axis=1) if table.size else (np.zeros(len(table)),) * 2
    return middle, np.maximum(high - middle, TINY)


def settings_of(
    pipe: Any, asked: Sequence[DetectorAt], trace: Trace, models: Any, guidance_scale: float
) -> dict[DetectorAt, Setting]:
    """What each look's scores hold for, right after a call that recorded the looks' steps."""
    return {
        one: running_setting(
            pipe,
            models,
            denoiser_input(pipe, trace),
            [(step.timestep, step.signal) for step in trace.steps if step.index == one.step(steps_of(pipe))],
            guidance_scale,
            trace.micro_conditioning,
        )
        for one in asked
    }


def scores_in(pipe: Any, asked: Sequence[DetectorAt], trace: Trace) -> dict[DetectorAt, list[float]]:
    """Each look's scores, right after a call that recorded the looks' steps. Raises MissingSignalError."""
    by_index = {step.index: step for step in trace.steps}
    steps = steps_of(pipe)
    return {one: one.score(by_index[one.step(steps)], by_index.get(0)).tolist() for one in asked}


def calibrate_trajectory(
    pipe: Any,
    asked: Sequence[DetectorAt],
    prompts: Sequence[str],
    seeds: Sequence[int],
    fpr: float,
    model: str,
    sampling: NegativeSampling = NegativeSampling(),  # noqa: B008
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Threshold]:
    """Draws every prompt on every seed as far as the last look and makes the thresholds.

    Args:
        pipe: The pipeline.
        asked: The looks of one budget (shield.runtime.trajectory.detectors_at).
        prompts: Known not to be memorized.
        seeds: One noise each.
        fpr: The false-alarm rate of all looks together.
        model: The checkpoint's name.
        sampling: How pictures are drawn.
        provenance: What else to note down.
        progress: Told how many draws each batch had.

    Raises:
        BadRequestError: As `joint_thresholds`, before anything is drawn where there are too few prompts.
    """
    work = [(prompt, seed) for seed in seeds for prompt in prompts]
    needed = draws_needed(fpr, len(asked_detectors(asked)))
    if len(work) < needed:
        raise BadRequestError(
            f"A false-positive rate of {fpr:g} for all points together needs at least {needed} draws; "
            f"{len(prompts)} prompts on {len(seeds)} noises are {len(work)}."
        )
    scores: dict[DetectorAt, list[float]] = {one: [] for one in asked}
    settings: dict[DetectorAt, Setting] = {}
    models = models_of(pipe)
    for start in range(0, len(work), sampling.batch_size):
        batch = work[start : start + sampling.batch_size]
        trace = drawn_as_far(pipe, asked, batch, sampling)
        settings = settings or settings_of(pipe, asked, trace, models, sampling.guidance_scale)
        for one, values in scores_in(pipe, asked, trace).items():
            scores[one] += values
        if progress is not None:
            progress(len(batch))
    about = {"prompts": len(set(prompts)), "seeds": list(seeds), "versions": versions(), **(provenance or {})}
    return joint_thresholds(asked, scores, settings, fpr, model, about)


def drawn_as_far(
    pipe: Any, asked: Sequence[DetectorAt], work: Sequence[tuple[str, int]], sampling: NegativeSampling
) -> Trace:
    """The steps that these looks read, of one call for pairs of prompt and seed, which ends after the last of them."""
    needs = frozenset().union(*(one.detector.needs for one in asked))
    return traced(pipe, work, needs, sampling, points=points_read(asked))
