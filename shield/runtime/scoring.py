"""Detectors at work in one call: which score which step, what they say about each image, and which mitigations hold."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from shield.errors import MissingSignalError, NotCalibratedError
from shield.hooks.forward import Forward
from shield.hooks.recording import archived
from shield.hooks.steps import steps_of
from shield.runtime.call import CallState, ImageState
from shield.runtime.trajectory import Due, can_look_again, due_detectors, levels_ahead, threshold_at, told_joined
from shield.thresholds import Threshold, found
from shield.types import Detector, Score, Step

log = logging.getLogger("shield")
NO_NUMBER = "its score is no number"


class CallScorer:
    """Scores the images of one call."""

    def __init__(self, call: CallState) -> None:
        self.call = call

    def silent(self, image: ImageState) -> list[str]:
        """The detectors and checks that never said anything about an image, which then have a score of no number."""
        checks = self.call.plan.watch.checks if self.call.plan.watch is not None else ()
        told = {score.detector for score in image.scores}
        silent = [judge.name for judge in (*self.call.policy.detectors, *checks) if judge.name not in told]
        silent += self._unseen_points(image)
        if silent and self.call.policy.on_unscored == "raise":
            raise MissingSignalError(
                f"{', '.join(silent)} couldn't judge: the steps that it reads weren't seen in this call; "
                "was it interrupted, or something exchanged under way?"
            )
        why = "the steps that it reads weren't seen in this call"
        image.scores += [Score(name, float("nan"), None, 0, why=why) for name in silent]
        return silent

    def _unseen_points(self, image: ImageState) -> list[str]:
        """The detectors that were due at later steps which never came."""
        told = {(score.detector, score.step) for score in image.scores}
        due = [(at.name, step) for step, some in self.call.points.items() for at, _ in some if step]
        return [name for name, step in due if (name, step) not in told] if image.is_followed else []

    def plan_points(self, forward: Forward) -> Due:
        """What scores which step of this call, by the policy's points.

        Raises NotCalibratedError before anything is drawn, where points were given and the policy says to raise.
        """
        is_optional = self.call.policy.points is None
        if self.call.plan.unreadable is not None or (
            is_optional and not any("budget" in t.options for t in self.call.plan.thresholds)
        ):
            return {}
        setting = self.call.setting(forward, levels_ahead(self.call.pipe.scheduler, forward.timestep))
        steps = steps_of(self.call.pipe)
        if not is_optional and (joined := told_joined(self.call.policy.points or (), steps)):
            log.info(joined)
        due = due_detectors(self.call.policy.followed, self.call.plan.thresholds, setting, steps, is_optional)
        missing = [at for some in due.values() for at, threshold in some if threshold is None]
        if missing and self.call.policy.on_unscored == "raise":
            threshold_at(self.call.plan.thresholds, missing[0], setting, steps, self.call.plan.calibrate)
        return due

    def score_first(self, step: Step, forward: Forward) -> None:
        """One of the first steps: detectors score that have now seen all that they read, and have no points."""
        self.call.levels.append((forward.timestep, forward.signal))
        self.call.trace.steps.append(step)
        for detector in self.call.policy.detectors:
            if detector.first_k == forward.index + 1 and not (self.call.points and can_look_again(detector)):
                self._score(detector, forward)

    def exchange_first(self, predictions: Mapping[int, Tensor]) -> None:
        """Puts what images' other conditioning predicts at the first step, (1, ...) by row, in the place of what was
        asked for, so that later steps are compared with the picture that is being drawn.
        """
        swapped = [image.row for image in self.call.images if image.swap is not None and image.row in predictions]
        first = next(iter(self.call.trace.steps), None)
        if not swapped or first is None or first.noise_cond is None:
            return
        cond = first.noise_cond.clone()
        for row in swapped:
            cond[row] = archived(predictions[row], self.call.family.packed)[0]
        self.call.trace.steps[0] = replace(first, noise_cond=cond)

    def score_points(self, step: Step, forward: Forward) -> list[tuple[ImageState, Sequence[Score]]]:
        """Scores by the policy's points; returns the images that a later step looked at, with what it said."""
        images = [image for image in self.call.images if image.is_followed] if forward.index else self.call.images
        due = self.call.points.get(forward.index, ())
        for at, threshold in due:
            try:
                values = at.score(step, next(iter(self.call.trace.steps), None)).tolist()
            except MissingSignalError:
                if self.call.policy.on_unscored == "raise":
                    raise
                values = [float("nan")] * len(self.call.images)
            why = None if threshold is not None else f"no threshold was made for {at.budget} of the schedule"
            self._append(at.detector, [values[image.row] for image in images], threshold, forward.index, images, why)
        return [(image, image.scores[-len(due) :]) for image in images] if due and forward.index else []

    def leave_unjudged(self, forward: Forward) -> None:
        """Nothing that looks at steps can tell anything, and every image says so."""
        checks = self.call.plan.watch.checks if self.call.plan.watch is not None else ()
        for name in [judge.name for judge in (*self.call.policy.detectors, *checks)] if forward.index == 0 else ():
            for image in self.call.images:
                image.scores.append(Score(name, float("nan"), None, 0))

    def with_reference(self, forward: Forward) -> Forward:
        """The step with the empty prompt's prediction as its unconditional one.

        A negative prompt would shift the gap (one that repeats the prompt makes it zero), so the empty prompt is
        predicted beside it. Where there is no text encoder to read it, nothing is left to compare with.
        """
        if "noise_uncond" not in self.call.policy.needs:
            return forward
        missing = forward.noise_uncond is None
        if not (self.call.has_own_uncond(forward) if not missing else self.call.policy.extra_uncond):
            return forward
        rows = range(len(self.call.images))
        try:
            null = self.call.null.repeated(len(rows))
        except MissingSignalError:
            if self.call.policy.on_unscored == "raise":
                raise
            return replace(forward, noise_uncond=None)
        self.call.count(1)
        return replace(forward, noise_uncond=forward.rerun(rows, null))

    def refuse_short(self) -> None:
        """A detector that reads more steps than this run has will never score: it couldn't judge, as without signal."""
        steps = steps_of(self.call.pipe)
        for detector in self.call.policy.detectors:
            if detector.first_k > steps:
                why = f"it reads {detector.first_k} steps and this run has {steps}"
                if self.call.policy.on_unscored == "raise":
                    raise MissingSignalError(f"{detector.name} couldn't judge: {why}; give it fewer.")
                for image in self.call.images:
                    image.scores.append(Score(detector.name, float("nan"), None, 0, why=why))

    def _score(self, detector: Detector, forward: Forward) -> None:
        why: str | None = None
        try:
            setting = self.call.setting(forward, self.call.levels)
            threshold = found(self.call.plan.thresholds, detector, setting, self.call.plan.calibrate)
            values = detector.score(self.call.trace).tolist()
        except (NotCalibratedError, MissingSignalError) as error:
            if self.call.policy.on_unscored == "raise":
                raise
            threshold, values, why = None, self._uncalibrated(detector), str(error).rstrip(".")
        self._append(detector, values, threshold, forward.index, self.call.images, why)

    def _append(
        self,
        detector: Detector,
        values: Sequence[float],
        threshold: Threshold | None,
        step: int,
        images: Sequence[ImageState],
        why: str | None = None,
    ) -> None:
        """Writes a score down for each image; `why` it couldn't be judged."""
        if self.call.policy.on_unscored == "raise" and any(v != v for v in values):
            raise MissingSignalError(f"{detector.name} is no number: the latents hold NaN; check dtype and prompt.")
        blind = self.call.unasked if "noise_uncond" in detector.needs else frozenset()
        limit, file = (None, None) if threshold is None else (threshold.value, threshold.file)
        for image, value in zip(images, values, strict=True):
            value = float("nan") if image.row in blind else value
            own = why or (NO_NUMBER if value != value and image.row not in blind else None)
            image.scores.append(scored(detector.name, value, threshold, step, why=own))

    def _uncalibrated(self, detector: Detector) -> list[float]:
        """Scores to show without a threshold; NaN where there is no signal."""
        try:
            return detector.score(self.call.trace).tolist()
        except MissingSignalError:
            return [float("nan")] * len(self.call.images)

    def holds(self, forward: Forward, image: ImageState, prediction: Tensor) -> bool:
        """Whether every detector passes the image with this prediction at the current step; under a policy that passes
        what can't be judged, every one that can judge it.
        """
        passes_unjudged = self.call.policy.on_unscored == "pass"
        if self.call.plan.unreadable is not None:
            return passes_unjudged
        if not self.call.trace.steps or self.call.trace.steps[-1].index != forward.index:
            return True
        trace = self.call.trace.rows([image.row])
        trace.steps[-1] = replace(trace.steps[-1], noise_cond=archived(prediction, self.call.family.packed))
        before = {score.detector: score for score in image.scores}
        for detector in self.call.policy.detectors:
            is_left_out = self.call.points and can_look_again(detector) and not self.call.points.get(forward.index)
            if detector.first_k <= len(trace.steps) and not is_left_out:
                score = before.get(detector.name)
                if passes_unjudged and (score is None or score.flagged is None):
                    continue
                if score is None or score.threshold is None or not float(detector.score(trace)) <= score.threshold:
                    return False
        return True


def scored(
    name: str, value: float, threshold: Threshold | None, step: int, nearest: str | None = None, why: str | None = None
) -> Score:
    """A score with what is known about its threshold."""
    if threshold is None:
        return Score(name, value, None, step, nearest, why=why)
    return Score(name, value, threshold.value, step, nearest, threshold.file, threshold.fpr, why)
