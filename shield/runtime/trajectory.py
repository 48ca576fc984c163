"""Detectors that look again at later steps of the schedule, with one false-alarm budget for all looks.

A caption that is worded a little differently pulls less at the first step, where a guess at the whole picture is all
there is, and the memory shows once the picture has taken shape: then it can be told whether that guess was the picture
(`kept_structure`, which looks in structure_gap's place at later points). Both halves of guidance are predicted at every
step anyway, so that a second look costs no denoiser call. Each look has a threshold of its own, and all of them were
made together (shield/calibration/trajectories.py): an image is flagged where any of them is exceeded. Points of a short
schedule that fall on one step are one look: its scores are equal, so the largest of them is the one, and the budget is
whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from shield.errors import BadRequestError, NotCalibratedError
from shield.hooks.steps import step_at
from shield.model.prediction import noise_levels
from shield.signals import TENSORS
from shield.thresholds import OWN_CALL, Setting, Threshold, found, options_of
from shield.types import Detector, Step, Trace

# Where every policy looks when thresholds for it are at hand; chosen on the testbed's dev split.
USUAL_POINTS = (0.0, 0.4)


@dataclass(frozen=True)
class DetectorAt:
    """A detector asked at share `point` of the schedule, as one of the looks of `budget`. `asked_for` is the policy's
    detector whose look it is, which has one share of the budget for all of its looks.
    """

    detector: Detector
    point: float
    budget: str
    asked_for: Detector

    @property
    def name(self) -> str:
        return self.detector.name

    first_k: ClassVar[int] = 2  # guidance and scheduler decide where the trajectory is, so that they are compared

    @property
    def options(self) -> dict[str, Any]:
        """What a threshold holds for. Those of one budget were made together."""
        return {**options_of(self.detector), "point": self.point, "budget": self.budget}

    @property
    def compares_first(self) -> bool:
        """Whether it compares its step with the first."""
        return _compares_first(self.detector)

    def step(self, steps: int) -> int:
        """The step that it reads of a call with so many, counted from 0."""
        return step_at(self.point, steps)

    def score(self, step: Step, first: Step | None = None) -> Tensor:
        """(B,) float32, of its step and the first one. Raises MissingSignalError."""
        if not self.compares_first:
            return self.detector.score(Trace([step]))
        return replace(self.detector, first_k=2).score(Trace([step] if first is None else [first, step]))  # type: ignore


Due = Mapping[int, Sequence[tuple[DetectorAt, Threshold | None]]]
"""By step, counted from 0: what scores it, and with which threshold."""


def can_look_again(detector: Detector) -> bool:
    """Whether a detector reads one step, or compares it with the first, and of it what every step shows."""
    return (detector.first_k == 1 or _compares_first(detector)) and detector.needs <= set(TENSORS)


def _compares_first(detector: Detector) -> bool:
    return getattr(detector, "compares_first", False)


def detectors_at(detectors: Sequence[Detector], points: Sequence[float]) -> tuple[DetectorAt, ...]:
    """Every detector that can look again, at each of these points; they share one budget.

    What a detector names as its `later` looks in its place at every point but the first step; one that compares with
    the first step doesn't look there.

    Raises BadRequestError for points that aren't shares of the schedule.
    """
    if not all(0.0 <= point <= 1.0 for point in points):
        told = ", ".join(f"{point:g}" for point in points)
        raise BadRequestError(f"points are shares from 0 to 1 of the schedule; {told} was given.")
    chosen, shares = [one for one in detectors if can_look_again(one)], sorted(set(points))
    budget = f"{', '.join(one.name for one in chosen)} at {', '.join(f'{share:g}' for share in shares)}"
    looks = [
        DetectorAt(getattr(one, "later", one) if share else one, share, budget, one)
        for one in chosen
        for share in shares
    ]
    return tuple(look for look in looks if look.point or not look.compares_first)


def points_read(asked: Sequence[DetectorAt]) -> list[float]:
    """The points of these looks, and the first step where one of them compares with it."""
    first = [0.0] if any(one.compares_first for one in asked) else []
    return [*first, *(one.point for one in asked)]


def looks_apart(asked: Sequence[DetectorAt], steps: int) -> list[DetectorAt]:
    """The looks of a call of so many steps: of those of one detector at one step the first, and at the first step none
    that compares with it.
    """
    first: dict[tuple[Detector, int], DetectorAt] = {}
    for one in asked:
        if one.step(steps) or not one.compares_first:
            first.setdefault((one.detector, one.step(steps)), one)
    return list(first.values())


def told_joined(points: Sequence[float], steps: int) -> str | None:
    """What to say where points fall on one step of so many; None where each has its own."""
    at: dict[int, list[str]] = {}
    for point in sorted(set(points)):
        at.setdefault(step_at(point, steps), []).append(f"{point:g}")
    joined = [f"{' and '.join(some)} fall on step {step + 1}" for step, some in at.items() if len(some) > 1]
    return f"Of {steps} steps the points {'; '.join(joined)}, which is one look." if joined else None


def threshold_at(
    thresholds: Iterable[Threshold],
    one: DetectorAt,
    setting: Setting,
    steps: int,
    command: Callable[[], str] = lambda: "calibrate",
) -> Threshold:
    """The threshold of one look of a call.

    Args:
        thresholds: Among which it is looked for.
        one: The look.
        setting: The call's, with the timesteps of all its steps.
        steps: How many it has. Thresholds made with another number don't hold, also at the first step, since those of
            one budget belong together.
        command: Makes the command for the thresholds of such a call's first step.

    Raises:
        NotCalibratedError, WeightsError: As `found`.
    """
    place = one.step(steps)
    signals = None if setting.signals is None else setting.signals[place : place + 1]
    here = replace(setting, timesteps=setting.timesteps[place : place + 1], signals=signals)
    alike = [each for each in thresholds if each.setting.steps == setting.steps and "budget" in each.options]

    def with_points() -> str:
        made = command()
        return made if made.startswith(OWN_CALL) else f"{made} --points {one.budget.split(' at ')[1].replace(' ', '')}"

    return found(alike, one, here, with_points)


def levels_ahead(scheduler: Any, timestep: float) -> list[tuple[float, float]]:
    """(timestep, signal) of the step at `timestep`, which the call is at, and of those that follow it."""
    schedule = [float(time) for time in scheduler.timesteps]
    start = min(range(len(schedule)), key=lambda place: abs(schedule[place] - timestep))
    times = [timestep, *schedule[start + 1 :]]
    return [(time, noise_levels(scheduler, time, place == 0)[0]) for place, time in enumerate(times)]


def due_detectors(
    asked: Sequence[DetectorAt], thresholds: Sequence[Threshold], setting: Setting, steps: int, is_optional: bool
) -> Due:
    """What scores which step of a call of so many.

    Args:
        asked: Of the policy.
        thresholds: Among which theirs are looked for.
        setting: The call's, with all its steps.
        steps: How many the call has.
        is_optional: Without thresholds for all of them there are none; otherwise those without have None.
    """
    due: dict[int, list[tuple[DetectorAt, Threshold | None]]] = {}
    for one in looks_apart(asked, steps):
        step = one.step(steps)
        try:
            threshold = threshold_at(thresholds, one, setting, steps)
        except NotCalibratedError:
            if is_optional:
                return {}
            threshold = None
        due.setdefault(step, []).append((one, threshold))
    return due
