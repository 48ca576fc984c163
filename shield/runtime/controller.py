"""What the shield does between two steps of one pipeline call: score, decide per image, and steer.

One StepController serves one call. It is the `on_forward` and `on_inputs` of intercept.py, keeps one ImageState per
image, and touches only the rows of flagged images, so that the others come out bit-equal.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from shield.errors import MissingSignalError, NotCalibratedError
from shield.hooks.forward import Forward
from shield.hooks.intercept import denoiser_of
from shield.hooks.latents import Moves
from shield.hooks.recording import record
from shield.hooks.steps import steps_of
from shield.mitigations import NullPrompt
from shield.model.conditioning import Conditioning, encoded, null_conditioning, prompt_length, says_nothing, written
from shield.model.families import Family
from shield.protected.gallery import Gallery
from shield.reasons import Reason
from shield.rewriters.attribution import word_weights
from shield.runtime.likeness import Likeness
from shield.runtime.policy import Policy, decided
from shield.runtime.preview_checks import Check, Look, PreviewMonitor
from shield.runtime.settings import Models, running_setting
from shield.runtime.trajectory import Due, can_look_again, due_detectors, levels_ahead, threshold_at
from shield.thresholds import Setting, Threshold, found
from shield.types import (
    Detector,
    Mention,
    Mitigation,
    MitigationContext,
    PredictionMitigation,
    Score,
    Screen,
    Step,
    Trace,
    WordWeight,
)

NO_NUMBER = "its score is no number"


class Abandoned(Exception):
    """Ends a pipeline call none of whose images may leave: all have to be drawn again. Never leaves the wrapper."""


@dataclass
class ImageState:
    """One image of the call and what has become of it. `tried` counts the policy's mitigations that are used up, and
    `spent` those that had their chance from the first step on. `earlier`: what an attempt before was flagged for.
    `action` "redraw": a later step flagged it, so that it has to be drawn again.
    """

    row: int
    prompt: str | None
    mentions: Sequence[Mention] = ()
    earlier: tuple[Reason, ...] = ()
    scores: list[Score] = field(default_factory=list)
    action: str = "pass"
    reasons: tuple[Reason, ...] = ()
    scored: bool = True
    tried: int = 0
    spent: int = 0
    mitigation: Mitigation | None = None
    rewritten: str | None = None
    swap: Conditioning | None = None
    safe: Conditioning | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    weights: tuple[WordWeight, ...] = ()
    extra_calls: int = 0

    @property
    def open(self) -> bool:
        """Still undecided: nothing has been done about this image."""
        return self.action in ("pass", "report")

    @property
    def is_followed(self) -> bool:
        """Whether later steps are scored: it may still leave, and isn't the empty prompt's, which leaves no gap."""
        return self.open or (self.action == "mitigate" and not isinstance(self.mitigation, NullPrompt))


@dataclass(frozen=True)
class Plan:
    """What a call will be like, known before it starts. `own_uncond`: its unconditional half isn't the empty
    prompt's. `size`: its pictures' height and width. `unreadable`: why no step of it can be judged, if none can.
    """

    family: Family
    policy: Policy
    thresholds: Sequence[Threshold]
    models: Models
    guided: bool
    own_uncond: bool
    screen: Screen | None = None
    watch: PreviewMonitor | None = None
    size: tuple[int, int] = (0, 0)
    gallery: Gallery | None = None
    unreadable: str | None = None


class StepController:
    """Observes and steers one call. `seconds` is the time it took itself, `calls` how often it was shown a prediction,
    `settings` which settings each check of the watch ran at, `moves` latents for the scheduler's next step.
    """

    def __init__(self, pipe: Any, plan: Plan, images: list[ImageState], guidance_scale: Callable[[], float]) -> None:
        self.pipe, self.plan, self.images = pipe, plan, images
        self.policy, self.family = plan.policy, plan.family
        self._guidance_scale = guidance_scale
        self.trace = Trace()
        self.levels: list[tuple[float, float]] = []
        self.seconds, self.calls = 0.0, 0
        self.moves: Moves = {}
        self.settings: dict[Check, Setting] = {}
        self._due: list[Check] = []
        self._points: Due = {}
        self._has_decided = False
        self._tokens = 0
        self._filled: dict[int, Conditioning | None] = {}
        self._null: Conditioning | None = None
        self._likeness = Likeness(pipe, plan.gallery, plan.size) if plan.gallery else None

    @property
    def null(self) -> Conditioning:
        """The empty prompt's row, encoded once when first needed."""
        if self._null is None:
            self._null = null_conditioning(self.pipe, self._tokens)
        return self._null

    @cached_property
    def unasked(self) -> frozenset[int]:
        """Rows whose prompt is the empty one. Their gap is zero whatever the model draws, also a memorized work."""
        nothing = {p: says_nothing(self.pipe, p) for p in {image.prompt for image in self.images} if p is not None}
        return frozenset(image.row for image in self.images if image.prompt is not None and nothing[image.prompt])

    def on_inputs(self, named: dict[str, Any], batch: int, is_uncond: bool) -> dict[str, Any] | None:
        """Gives rewritten images their conditioning; None while there are none."""
        swapped = [image for image in self.images if image.swap is not None]
        if not swapped or is_uncond or self.family.ragged:
            return None
        start = self.family.halves(len(named[self.family.sample]), batch)[0].start
        for image in swapped:
            assert image.swap is not None
            named = written(self.family, named, image.swap, [start + image.row])
        return named

    def on_forward(self, forward: Forward) -> Tensor | None:
        """The conditional predictions with flagged images' rows edited; None while nothing is flagged."""
        self.calls += 1
        is_separate = self.family.layout == "separate"
        if is_separate and self.plan.guided != (forward.noise_uncond is not None):
            return None  # the other half of a step, which tells everything or was told already
        started = perf_counter()
        self._tokens = forward.conditioning.embeds.shape[1]
        watch = self.plan.watch if self.plan.unreadable is None else None
        self._due = [] if watch is None else watch.due(forward.index)
        if forward.index == 0:
            self._points = self._planned(forward)
        is_scored = forward.index < max(self.policy.horizon, 1) or forward.index in self._points
        edits = self._observed(forward) if is_scored else {}
        edits |= dict(self._predicted(forward, edits))
        edits |= self._looked(forward, edits) if self._due else {}
        edits |= self._apart(forward, edits) if forward.keeps else {}
        self.seconds += perf_counter() - started
        return _edited(forward.noise_cond, edits) if edits else None

    def ended(self, lost: bool) -> None:
        """The call is over: what nothing judged couldn't be judged, and can't be mitigated any more.

        `lost`: a step came from something that nobody watched, so no mitigation can be vouched for. Raises
        MissingSignalError when the policy says so.
        """
        for image in self.images:
            if image.action not in ("aside", "block", "redraw"):
                silent = self._silent(image)
                if image.open and (silent or not self._has_decided):
                    self._decide(image)
                image.scored &= not silent
                if image.action == "mitigate" and (lost or image.mitigation is None):
                    image.action = "block"
                    image.reasons += (Reason("unsteered"),)

    def _silent(self, image: ImageState) -> list[str]:
        """The detectors and checks that never said anything about an image, which then have a score of no number."""
        checks = self.plan.watch.checks if self.plan.watch is not None else ()
        told = {score.detector for score in image.scores}
        silent = [judge.name for judge in (*self.policy.detectors, *checks) if judge.name not in told]
        silent += self._unseen_points(image)
        if silent and self.policy.on_unscored == "raise":
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
        due = [(at.name, step) for step, some in self._points.items() for at, _ in some if step]
        return [name for name, step in due if (name, step) not in told] if image.is_followed else []

    def _planned(self, forward: Forward) -> Due:
        """What scores which step of this call, by the policy's points.

        Raises NotCalibratedError before anything is drawn, where points were given and the policy says to raise.
        """
        is_optional = self.policy.points is None
        if self.plan.unreadable is not None or (
            is_optional and not any("budget" in t.options for t in self.plan.thresholds)
        ):
            return {}
        setting = self._setting(forward, levels_ahead(self.pipe.scheduler, forward.timestep))
        steps = steps_of(self.pipe)
        due = due_detectors(self.policy.followed, self.plan.thresholds, setting, steps, is_optional)
        missing = [at for some in due.values() for at, threshold in some if threshold is None]
        if missing and self.policy.on_unscored == "raise":
            threshold_at(self.plan.thresholds, missing[0], setting, steps)
        return due

    def _observed(self, forward: Forward) -> dict[int, Tensor]:
        """Records, scores and decides; returns the rows that a new conditioning predicted anew."""
        edits: dict[int, Tensor] = {}
        if self.plan.unreadable is not None:
            self._unjudged(forward)
        elif forward.index < self.policy.horizon or any(image.is_followed for image in self.images):
            scored = self._with_reference(forward)
            if forward.index == 0:
                self._count(self.policy.signals.extra_calls)
                self._refuse_short()
            step = record(scored, self.policy.signals, self.family.packed)
            if forward.index < self.policy.horizon:
                self._scored_first(step, forward)
            edits = self._scored_at(step, forward)
        return edits | self._acted(forward)

    def _scored_first(self, step: Step, forward: Forward) -> None:
        """One of the first steps: detectors score that have now seen all that they read, and have no points."""
        self.levels.append((forward.timestep, forward.signal))
        self.trace.steps.append(step)
        for detector in self.policy.detectors:
            if detector.first_k == forward.index + 1 and not (self._points and can_look_again(detector)):
                self._score(detector, forward)

    def _scored_at(self, step: Step, forward: Forward) -> dict[int, Tensor]:
        """Scores by the policy's points. What a later step flags is to be drawn again, or is blocked from here on."""
        images = [image for image in self.images if image.is_followed] if forward.index else self.images
        due = self._points.get(forward.index, ())
        for at, threshold in due:
            try:
                values = at.score(step).tolist()
            except MissingSignalError:
                if self.policy.on_unscored == "raise":
                    raise
                values = [float("nan")] * len(self.images)
            why = None if threshold is not None else f"no threshold was made for {at.budget} of the schedule"
            self._append(at.detector, [values[image.row] for image in images], threshold, forward.index, images, why)
        edits: dict[int, Tensor] = {}
        for image in images if due and forward.index else ():
            edits |= self._flagged_late(image, image.scores[-len(due) :], forward)
        if images and all(image.action == "redraw" for image in self.images):
            raise Abandoned
        return edits

    def _flagged_late(self, image: ImageState, scores: Sequence[Score], forward: Forward) -> dict[int, Tensor]:
        decision = decided(scores, (), self.policy)
        image.scored &= decision.scored
        if decision.action in ("pass", "report"):
            return {}  # `_acted` decides an open one
        can_redraw = self.policy.retries > 0 and image.spent < len(self.policy.mitigations)
        image.action = "redraw" if decision.action == "mitigate" and can_redraw else "block"
        image.reasons += decision.reasons
        return self._steered(forward, image)

    def _unjudged(self, forward: Forward) -> None:
        """Nothing that looks at steps can tell anything, and every image says so."""
        checks = self.plan.watch.checks if self.plan.watch is not None else ()
        for name in [judge.name for judge in (*self.policy.detectors, *checks)] if forward.index == 0 else ():
            for image in self.images:
                image.scores.append(Score(name, float("nan"), None, 0))

    def _with_reference(self, forward: Forward) -> Forward:
        """The step with the empty prompt's prediction as its unconditional one.

        A negative prompt would shift the gap (one that repeats the prompt makes it zero), so the empty prompt is
        predicted beside it.
        """
        if "noise_uncond" not in self.policy.needs:
            return forward
        missing = forward.noise_uncond is None
        if not (self._has_own_uncond(forward) if not missing else self.policy.extra_uncond):
            return forward
        self._count(1)
        rows = range(len(self.images))
        return replace(forward, noise_uncond=forward.rerun(rows, self.null.repeated(len(rows))))

    def _has_own_uncond(self, forward: Forward) -> bool:
        """Whether the unconditional prediction isn't the empty prompt's beside the conditional one."""
        return self.plan.own_uncond or forward.other_micro

    def _count(self, calls: int) -> None:
        for image in self.images:
            image.extra_calls += calls

    def _refuse_short(self) -> None:
        """A detector that reads more steps than this run has will never score: it couldn't judge, as without signal."""
        steps = steps_of(self.pipe)
        for detector in self.policy.detectors:
            if detector.first_k > steps:
                why = f"it reads {detector.first_k} steps and this run has {steps}"
                if self.policy.on_unscored == "raise":
                    raise MissingSignalError(f"{detector.name} couldn't judge: {why}; give it fewer.")
                for image in self.images:
                    image.scores.append(Score(detector.name, float("nan"), None, 0, why=why))

    def _score(self, detector: Detector, forward: Forward) -> None:
        why: str | None = None
        try:
            threshold = found(self.plan.thresholds, detector, self._setting(forward, self.levels))
            values = detector.score(self.trace).tolist()
        except (NotCalibratedError, MissingSignalError) as error:
            if self.policy.on_unscored == "raise":
                raise
            threshold, values, why = None, self._uncalibrated(detector), str(error).rstrip(".")
        self._append(detector, values, threshold, forward.index, self.images, why)

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
        if self.policy.on_unscored == "raise" and any(v != v for v in values):
            raise MissingSignalError(f"{detector.name} is no number: the latents hold NaN; check dtype and prompt.")
        blind = self.unasked if "noise_uncond" in detector.needs else frozenset()
        limit, file = (None, None) if threshold is None else (threshold.value, threshold.file)
        for image, value in zip(images, values, strict=True):
            value = float("nan") if image.row in blind else value
            own = why or (NO_NUMBER if value != value and image.row not in blind else None)
            image.scores.append(_scored(detector.name, value, threshold, step, why=own))

    def _uncalibrated(self, detector: Detector) -> list[float]:
        """Scores to show without a threshold; NaN where there is no signal."""
        try:
            return detector.score(self.trace).tolist()
        except MissingSignalError:
            return [float("nan")] * len(self.images)

    def _setting(self, forward: Forward, levels: Sequence[tuple[float, float]]) -> Setting:
        shape, scale = tuple(forward.latents.shape[1:]), self._guidance_scale()
        return running_setting(self.pipe, self.plan.models, shape, levels, scale, forward.micro_conditioning)

    def _acted(self, forward: Forward) -> dict[int, Tensor]:
        """Decides every open image, and starts to mitigate or block those that were flagged."""
        edits: dict[int, Tensor] = {}
        self._has_decided = True
        for image in self.images:
            if image.open:
                self._decide(image)
                edits |= self._steered(forward, image)
        return edits

    def _decide(self, image: ImageState) -> None:
        decision = decided(image.scores, image.mentions, self.policy, image.earlier)
        image.action, image.scored = decision.action, decision.scored
        image.reasons = decision.reasons if decision.scored else (*decision.reasons, *self._unscorable(image))

    def _unscorable(self, image: ImageState) -> Iterator[Reason]:
        """Why no detector can judge an image, where that is known."""
        if self.plan.unreadable is not None:
            yield Reason("unreadable", detail=self.plan.unreadable)
        if image.row in self.unasked:
            yield Reason("empty_prompt")

    def _steered(self, forward: Forward, image: ImageState) -> dict[int, Tensor]:
        """Does what was decided; the row with its new prediction, or nothing."""
        if image.action == "mitigate":
            return {image.row: self._mitigated(forward, image)}
        return {image.row: self._emptied(forward, image)} if image.action == "block" else {}

    def _looked(self, forward: Forward, edits: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Compares previews with what is protected. What was open is decided again; what is being mitigated and comes
        near all the same gets the next mitigation.
        """
        images = [image for image in self.images if image.open or image.action == "mitigate"]
        if not images:
            return {}
        mitigated = [image for image in images if not image.open]
        looks = self._looks(forward, _edited(forward.noise_cond, edits), [image.row for image in images])
        for check, said in zip(self._due, looks, strict=True):
            limit = self._limit(check, forward)
            for image, (value, nearest) in zip(images, said, strict=True):
                why = "it has no threshold at this step" if limit is None else NO_NUMBER if value != value else None
                image.scores.append(_scored(check.name, value, limit, forward.index, nearest, why))
        changed = self._acted(forward)
        for image in mitigated:
            decision = decided(image.scores[-len(self._due) :], (), self.policy)
            image.scored &= decision.scored
            if decision.action in ("mitigate", "block"):
                image.action, image.reasons = decision.action, (*image.reasons, *decision.reasons)
                changed |= self._steered(forward, image)
        return changed

    def _looks(self, forward: Forward, prediction: Tensor, rows: Sequence[int]) -> list[list[Look]]:
        """What each due check says about these rows of a conditional prediction (B, ...)."""
        assert self.plan.watch is not None
        picked = replace(forward, latents=forward.latents[list(rows)])
        looks = self.plan.watch.seen(picked, prediction[list(rows)], self._due, self.plan.size)
        if self.policy.on_unscored == "raise" and any(value != value for said in looks for value, _ in said):
            raise MissingSignalError("A preview shows no picture: the latents hold NaN, or this step predicts none.")
        return looks

    def _limit(self, check: Check, forward: Forward) -> Threshold | None:
        """The check's threshold at this step; None where there is none and the policy doesn't say to raise."""
        setting = self._setting(forward, [(forward.timestep, forward.signal)])
        self.settings[check] = replace(setting, autoencoder_sha256=self.plan.models.autoencoder)
        try:
            return found(self.plan.thresholds, check, self.settings[check], "calibrate-watch")
        except NotCalibratedError:
            if self.policy.on_unscored == "raise":
                raise
            return None

    def _mitigated(self, forward: Forward, image: ImageState) -> Tensor:
        """The row's new prediction by the next mitigation that holds; blocks when none does."""
        for mitigation in self.policy.mitigations[image.tried :]:
            self.moves.pop(image.row, None)
            image.tried += 1
            image.spent = image.tried if forward.index == 0 else image.spent
            for prompt in self._proposals(forward, image) if mitigation.needs_prompt else (None,):
                image.safe = None if prompt is None else encoded(self.pipe, [prompt], self._tokens)
                image.mitigation, image.rewritten, image.memory, image.swap = mitigation, prompt, {}, None
                prediction = self._tried(forward, image, mitigation)
                if prediction is not None:
                    return prediction
        self.moves.pop(image.row, None)
        image.mitigation, image.rewritten, image.action = None, None, "block"
        image.reasons += (Reason("exhausted"),)
        return self._emptied(forward, image)

    def _proposals(self, forward: Forward, image: ImageState) -> Iterator[str]:
        """Rewritten prompts in which the screen finds nothing, as long as extra calls are left. One call is left for
        each later mitigation that takes rewritten prompts too.
        """
        if image.prompt is None:
            return
        budget = self.policy.extra_calls - sum(one.needs_prompt for one in self.policy.mitigations[image.tried :])
        for rewriter in self.policy.rewriters:
            if rewriter.needs_weights and not image.weights:
                image.weights = self._weighed(forward, image)
            for prompt in rewriter.propose(image.prompt, image.mentions, image.weights):
                if image.extra_calls >= budget:
                    return
                if self.plan.screen is None or not self.plan.screen.found(prompt):
                    yield prompt

    def _weighed(self, forward: Forward, image: ImageState) -> tuple[WordWeight, ...]:
        """Which words pull, within the budget of extra calls; none when they can't be told."""
        is_usable = forward.noise_uncond is not None and not self._has_own_uncond(forward)
        uncond = forward.noise_uncond[[image.row]] if is_usable and forward.noise_uncond is not None else None
        if image.prompt is None or image.extra_calls + (uncond is None) >= self.policy.extra_calls:
            return ()
        structure = "noise_gap" not in {score.detector for score in image.scores if score.flagged}
        try:
            return word_weights(self.pipe, image.prompt, self._case(forward, image), uncond, structure)
        except MissingSignalError:
            return ()

    def _tried(self, forward: Forward, image: ImageState, mitigation: Mitigation) -> Tensor | None:
        """The prediction this mitigation gives now; None when a detector still flags it or this call can't use it."""
        if isinstance(mitigation, NullPrompt):
            return self._unasked_picture(forward, image)
        case, conditioning = self._case(forward, image), None
        try:
            if isinstance(mitigation, PredictionMitigation):
                prediction, checked = mitigation.predicted(case), mitigation.needs_prompt
            else:
                conditioning, checked = mitigation.conditioned(case), True
                prediction = case.rerun(conditioning)
        except MissingSignalError:
            return None
        if checked and not (self._holds(forward, image, prediction) and self._passes(forward, image, prediction)):
            return None
        image.swap = conditioning
        return prediction

    def _unasked_picture(self, forward: Forward, image: ImageState) -> Tensor | None:
        """The empty prompt's prediction. Detectors can't judge what it draws (`unasked`): a policy that blocks what
        can't be judged takes the next mitigation, and others tell, unless a gallery looks at the picture.
        """
        blind = any("noise_uncond" in detector.needs for detector in self.policy.detectors)
        if blind and self.policy.on_unscored == "block":
            return None
        prediction = self._emptied(forward, image)
        if not self._passes(forward, image, prediction):
            return None
        if blind and not self.plan.gallery:
            image.scored = False
            image.reasons += (Reason("unchecked", detail=NullPrompt.name),)
        return prediction

    def _passes(self, forward: Forward, image: ImageState, prediction: Tensor) -> bool:
        """Whether every check that is due at the current step passes this image's (1, ...) prediction."""
        if not self._due:
            return True
        alone = replace(forward, latents=forward.latents[[image.row]])
        limits = [self._limit(check, forward) for check in self._due]
        values = [said[0][0] for said in self._looks(alone, prediction, [0])]
        unjudged = self.policy.on_unscored == "pass"
        pairs = zip(values, limits, strict=True)
        return all(unjudged if limit is None else value <= limit.value for value, limit in pairs)

    def _holds(self, forward: Forward, image: ImageState, prediction: Tensor) -> bool:
        """Whether every detector passes the image with this prediction at the current step; under a policy that passes
        what can't be judged, every one that can judge it.
        """
        passes_unjudged = self.policy.on_unscored == "pass"
        if self.plan.unreadable is not None:
            return passes_unjudged
        if not self.trace.steps or self.trace.steps[-1].index != forward.index:
            return True
        trace = self.trace.rows([image.row])
        archived = prediction.detach().to("cpu", torch.float32)
        archived = archived.movedim(-1, 1) if self.family.packed else archived
        trace.steps[-1] = replace(trace.steps[-1], noise_cond=archived)
        before = {score.detector: score for score in image.scores}
        for detector in self.policy.detectors:
            is_left_out = self._points and can_look_again(detector) and not self._points.get(forward.index)
            if detector.first_k <= len(trace.steps) and not is_left_out:
                score = before.get(detector.name)
                if passes_unjudged and (score is None or score.flagged is None):
                    continue
                if score is None or score.threshold is None or not float(detector.score(trace)) <= score.threshold:
                    return False
        return True

    def _emptied(self, forward: Forward, image: ImageState) -> Tensor:
        """The empty prompt from here on. Free when the unconditional half is the empty prompt's."""
        image.swap = self.null
        if forward.noise_uncond is not None and not self._has_own_uncond(forward):
            return forward.noise_uncond[[image.row]]
        image.extra_calls += 1
        return forward.rerun([image.row], self.null)

    def _predicted(self, forward: Forward, done: Container[int]) -> Iterator[tuple[int, Tensor]]:
        """Rows whose mitigation edits predictions at every step, without those that are done at this one."""
        for image in self.images:
            if image.action == "mitigate" and image.row not in done:
                if isinstance(image.mitigation, PredictionMitigation):
                    yield image.row, image.mitigation.predicted(self._case(forward, image))

    def _apart(self, forward: Forward, done: Container[int]) -> dict[int, Tensor]:
        """Rows with another conditioning than the denoiser's kept features were made with, predicted without those.

        What is exchanged at the first step goes into caches that can be filled anew, and then needs nothing more.
        """
        swapped = [image for image in self.images if image.swap is not None]
        if forward.refills:
            self._filled = {image.row: image.swap for image in swapped}
            for image in swapped:
                image.extra_calls += forward.refills
        others = [i for i in swapped if i.row not in done and i.swap is not self._filled.get(i.row)]
        return {image.row: self._swapped(forward, image) for image in others}

    def _swapped(self, forward: Forward, image: ImageState) -> Tensor:
        if image.swap is self._null:
            return self._emptied(forward, image)
        image.extra_calls += 1
        assert image.swap is not None
        return forward.rerun([image.row], image.swap)

    def _case(self, forward: Forward, image: ImageState) -> MitigationContext:
        row, said = [image.row], image.rewritten or image.prompt

        def rerun(conditioning: Conditioning, latents: Tensor | None = None) -> Tensor:
            image.extra_calls += 1
            return forward.rerun(row, conditioning, latents=latents)

        def move(latents: Tensor) -> None:
            self.moves[image.row] = (forward.latents[image.row], latents[0])

        return MitigationContext(
            step=forward.index,
            steps=len(self.pipe.scheduler.timesteps),
            guidance_scale=self._guidance_scale(),
            noise_cond=forward.noise_cond[row],
            noise_uncond=None if forward.noise_uncond is None else forward.noise_uncond[row],
            original=forward.conditioning.rows(row),
            safe=image.safe,
            null=self.null,
            rerun=rerun,
            memory=image.memory,
            latents=forward.latents[row],
            move=move,
            length=None if said is None else prompt_length(self.pipe, said, self._tokens),
            denoiser=denoiser_of(self.pipe),
            likeness=None if self._likeness is None else self._likeness.at(forward, image.row),
            mentions=image.mentions,
            encode=lambda texts: encoded(self.pipe, list(texts), self._tokens),
        )


def _scored(
    name: str, value: float, threshold: Threshold | None, step: int, nearest: str | None = None, why: str | None = None
) -> Score:
    """A score with what is known about its threshold."""
    if threshold is None:
        return Score(name, value, None, step, nearest, why=why)
    return Score(name, value, threshold.value, step, nearest, threshold.file, threshold.fpr, why)


def _edited(noise_cond: Tensor, edits: Mapping[int, Tensor]) -> Tensor:
    """The conditional predictions with some rows replaced; the same tensor when there are none."""
    if not edits:
        return noise_cond
    changed = noise_cond.clone()
    for row, prediction in edits.items():
        changed[row] = prediction[0].to(changed)
    return changed
