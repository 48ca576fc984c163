"""What the shield does between two steps of one pipeline call: score, decide per image, and steer.

One StepController serves one call. It is the `on_forward` and `on_inputs` of intercept.py, keeps one ImageState per
image, and touches only the rows of flagged images, so that the others come out bit-equal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from torch import Tensor

from shield.hooks.forward import Forward
from shield.hooks.latents import Moves
from shield.hooks.recording import record
from shield.model.conditioning import written
from shield.reasons import Reason
from shield.runtime.call import Abandoned, CallState, ImageState, Plan
from shield.runtime.looks import Previews
from shield.runtime.policy import decided
from shield.runtime.preview_checks import Check
from shield.runtime.remains import Remains
from shield.runtime.scoring import CallScorer
from shield.runtime.steering import Steering
from shield.thresholds import Setting
from shield.types import Score


class StepController:
    """Observes and steers one call. `seconds`: the time it took itself; `calls`: how many predictions it was shown."""

    def __init__(self, pipe: Any, plan: Plan, images: list[ImageState], guidance_scale: Callable[[], float]) -> None:
        self.call = CallState(pipe, plan, images, guidance_scale)
        self.scorer, self.previews = CallScorer(self.call), Previews(self.call)
        self.steering, self.remains = Steering(self.call, self.scorer, self.previews), Remains(self.call)
        self.seconds, self.calls = 0.0, 0
        self._has_decided = False

    @property
    def moves(self) -> Moves:
        """Latents for the scheduler's next step."""
        return self.call.moves

    @property
    def settings(self) -> dict[Check, Setting]:
        """Which settings each check of previews ran at."""
        return self.call.settings

    def on_inputs(self, named: dict[str, Any], batch: int, is_uncond: bool) -> dict[str, Any] | None:
        """Gives rewritten images their conditioning; None while there are none."""
        swapped = [image for image in self.call.images if image.swap is not None]
        if not swapped or is_uncond or self.call.family.ragged:
            return None
        start = self.call.family.halves(len(named[self.call.family.sample]), batch)[0].start
        for image in swapped:
            assert image.swap is not None
            named = written(self.call.family, named, image.swap, [start + image.row])
        return named

    def wants(self, index: int) -> bool:
        """Whether anything is to be done at this step; it is told of each prediction."""
        self.calls += 1
        return (
            self._is_scored(index)
            or any(not image.open for image in self.call.images)
            or (self.call.plan.watch is not None and bool(self.call.plan.watch.due(index)))
        )

    def _is_scored(self, index: int) -> bool:
        return index < max(self.call.policy.horizon, 1) or index in self.call.points

    def on_forward(self, forward: Forward) -> Tensor | None:
        """The conditional predictions with flagged images' rows edited; None while nothing is flagged."""
        is_separate = self.call.family.layout == "separate"
        if is_separate and self.call.plan.guided != (forward.noise_uncond is not None):
            return None  # the other half of a step, which tells everything or was told already
        started = perf_counter()
        self.call.tokens = forward.conditioning.embeds.shape[1]
        watch = self.call.plan.watch if self.call.plan.unreadable is None else None
        self.call.due = [] if watch is None else watch.due(forward.index)
        if forward.index == 0:
            self.call.points = self.scorer.plan_points(forward)
        edits = self.steering.apart(forward, ()) if forward.keeps and forward.index else {}
        if edits:
            forward = replace(forward, noise_cond=_edited(forward.noise_cond, edits))
        edits |= self._observed(forward) if self._is_scored(forward.index) else {}
        if self.remains.is_due(forward.index):
            edits |= self._acted_late(self.remains.scores(forward), forward)
        edits |= dict(self.steering.predictions(forward, edits))
        edits |= self._looked(forward, edits) if self.call.due else {}
        if forward.index == 0:
            edits |= self.steering.apart(forward, edits) if forward.keeps else {}
            self.remains.keep(forward)
            self.scorer.exchange_first(edits)
        self.seconds += perf_counter() - started
        return _edited(forward.noise_cond, edits) if edits else None

    def ended(self, lost: bool) -> None:
        """The call is over: what nothing judged couldn't be judged, and can't be mitigated any more.

        `lost`: a step came from something that nobody watched, so no mitigation can be vouched for. Raises
        MissingSignalError when the policy says so.
        """
        for image in self.call.images:
            if image.action not in ("aside", "block", "redraw"):
                silent = self.scorer.silent(image)
                if image.open and (silent or not self._has_decided):
                    self._decide(image)
                image.scored &= not silent
                if image.action == "mitigate" and (lost or image.mitigation is None):
                    image.action = "block"
                    image.reasons += (Reason("unsteered"),)

    def _observed(self, forward: Forward) -> dict[int, Tensor]:
        """Records, scores and decides; returns the rows that a new conditioning predicted anew."""
        edits: dict[int, Tensor] = {}
        if self.call.plan.unreadable is not None:
            self.scorer.leave_unjudged(forward)
        elif forward.index < self.call.policy.horizon or any(image.is_followed for image in self.call.images):
            scored = self.scorer.with_reference(forward)
            if forward.index == 0:
                self.call.count(self.call.policy.signals.extra_calls)
                self.scorer.refuse_short()
            step = record(scored, self.call.policy.signals, self.call.family.packed)
            if forward.index < self.call.policy.horizon:
                self.scorer.score_first(step, forward)
            edits = self._acted_late(self.scorer.score_points(step, forward), forward)
        return edits | self._acted(forward)

    def _acted_late(self, looked: Sequence[tuple[ImageState, Sequence[Score]]], forward: Forward) -> dict[int, Tensor]:
        """What a later step flags is to be drawn again, or is blocked from here on. `_acted` decides open images.

        Raises Abandoned where all images are to be drawn again.
        """
        policy, edits = self.call.policy, dict[int, Tensor]()
        for image, scores in looked:
            decision = decided(scores, (), policy)
            image.scored &= decision.scored
            if decision.action not in ("pass", "report"):
                can_redraw = policy.retries > 0 and image.spent < len(policy.mitigations)
                image.action = "redraw" if decision.action == "mitigate" and can_redraw else "block"
                image.reasons += decision.reasons
                edits |= self._steered(forward, image)
        if looked and all(image.action == "redraw" for image in self.call.images):
            raise Abandoned
        return edits

    def _acted(self, forward: Forward) -> dict[int, Tensor]:
        """Decides every open image, and starts to mitigate or block those that were flagged."""
        edits: dict[int, Tensor] = {}
        self._has_decided = True
        for image in self.call.images:
            if image.open:
                self._decide(image)
                edits |= self._steered(forward, image)
        return edits

    def _decide(self, image: ImageState) -> None:
        decision = decided(image.scores, image.mentions, self.call.policy, image.earlier)
        image.action, image.scored = decision.action, decision.scored
        image.reasons = decision.reasons if decision.scored else (*decision.reasons, *self._unscorable(image))

    def _unscorable(self, image: ImageState) -> Iterator[Reason]:
        """Why no detector can judge an image, where that is known."""
        if self.call.plan.unreadable is not None:
            yield Reason("unreadable", detail=self.call.plan.unreadable)
        if image.row in self.call.unasked:
            yield Reason("empty_prompt")

    def _steered(self, forward: Forward, image: ImageState) -> dict[int, Tensor]:
        """Does what was decided; the row with its new prediction, or nothing."""
        if image.action == "mitigate":
            return {image.row: self.steering.mitigate(forward, image)}
        return {image.row: self.steering.blocked(forward, image)} if image.action == "block" else {}

    def _looked(self, forward: Forward, edits: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Compares previews with what is protected. What was open is decided again; what is being mitigated and comes
        near all the same gets the next mitigation.
        """
        images = [image for image in self.call.images if image.open or image.action == "mitigate"]
        if not images:
            return {}
        mitigated = [image for image in images if not image.open]
        self.previews.score(forward, _edited(forward.noise_cond, edits), images)
        changed = self._acted(forward)
        for image in mitigated:
            decision = decided(image.scores[-len(self.call.due) :], (), self.call.policy)
            image.scored &= decision.scored
            if decision.action in ("mitigate", "block"):
                image.action, image.reasons = decision.action, (*image.reasons, *decision.reasons)
                changed |= self._steered(forward, image)
        return changed


def _edited(noise_cond: Tensor, edits: Mapping[int, Tensor]) -> Tensor:
    """The conditional predictions with some rows replaced; the same tensor when there are none."""
    if not edits:
        return noise_cond
    changed = noise_cond.clone()
    for row, prediction in edits.items():
        changed[row] = prediction[0].to(changed)
    return changed
