"""One shielded call at work: draw while steps are watched, compare with the gallery, draw again what was flagged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from shield.hooks.custody import Custody
from shield.hooks.intercept import intercepted, once_more
from shield.hooks.latents import movable
from shield.reasons import Reason, ReasonKind
from shield.runtime.blind_spots import BlindSpots
from shield.runtime.call import Abandoned, ImageState, Plan
from shield.runtime.controller import StepController
from shield.runtime.output import blanked, images_of, pil_images, replaced, with_row, with_verdicts
from shield.runtime.retry import call_alone, joined, kept_noise, left_aside, retried, worth_retrying
from shield.runtime.verdicts import tell, verdict_of
from shield.types import Nearest, Verdict


@dataclass(frozen=True)
class PipelineCall:
    """A call of the pipeline: the arguments that were given, by name, and all of them."""

    kwargs: dict[str, Any]
    request: dict[str, Any]
    blind_spots: BlindSpots


@dataclass
class DrawnCall:
    """What a call came to so far. `calls` of the denoiser were the pipeline's own, `seconds` the shield's; `start` are
    the latents that it began with. Without an `output` it was abandoned, because none of its images could leave.
    """

    output: Any
    pictures: Any
    images: list[ImageState]
    nearest: list[Nearest | None]
    seconds: float
    calls: int
    start: Tensor | None = None

    def take(self, second: DrawnCall, rows: Sequence[int], alone: bool) -> None:
        """Takes these rows' pictures from a second attempt; all of it where this one was abandoned."""
        if self.output is None:
            self.output, self.pictures, self.start, self.calls = (
                second.output,
                second.pictures,
                second.start,
                second.calls,
            )
        elif second.output is not None:
            for row in rows:
                place = 0 if alone else row
                self.output = with_row(self.output, row, second.output, place)
                self.pictures = replaced(self.pictures, row, second.pictures, place)


def draw(pipe: Any, plan: Plan, call: PipelineCall, images: list[ImageState]) -> DrawnCall:
    """Draws a call's images, and again those that are flagged, as often as the policy says."""
    drawing = _Drawing(pipe, plan, call, kept_noise(call.request.get("generator")))
    drawn = drawing.run(call, images)
    drawing.redraw_late(drawn)
    for _ in range(plan.policy.retries):
        wrong = [i.row for i in drawn.images if worth_retrying(i, drawn.nearest[i.row], plan.policy)]
        if not wrong:
            break
        drawing.redraw(drawn, wrong, call)
    return drawn


class _Drawing:
    """Attempts of one call. `rewound` takes the generators back to where it began."""

    def __init__(self, pipe: Any, plan: Plan, call: PipelineCall, rewound: Callable[[], None]) -> None:
        self.pipe, self.plan, self.call, self.rewound = pipe, plan, call, rewound

    def run(self, call: PipelineCall, images: list[ImageState]) -> DrawnCall:
        """Runs the pipeline, watched, and compares what came out with the gallery."""
        family = self.plan.family
        scale = family.scale(call.request.get(family.guidance))
        controller = StepController(self.pipe, self.plan, images, lambda: scale)
        guidance = scale if family.layout == "separate" else None
        layers = self.plan.policy.signals.layers
        call.blind_spots.begin()
        custody, output_type = Custody(self.pipe, call.blind_spots.notice), call.request.get("output_type") or "pil"
        with (
            movable(self.pipe.scheduler, controller.moves),
            intercepted(
                self.pipe, controller.on_forward, controller.on_inputs, guidance, layers, custody, controller.wants
            ),
        ):
            try:
                # Z-Image writes into the list of prompts that it is given.
                output = self.pipe(**{k: list(one) if type(one) is list else one for k, one in call.kwargs.items()})
            except Abandoned:
                return DrawnCall(None, None, images, [None] * len(images), controller.seconds, controller.calls)
        started = perf_counter()
        pictures = images_of(output)
        custody.ended(pictures, output_type)
        controller.ended(custody.lost or call.blind_spots.lost)
        nearest = self._nearest(pictures, output_type, images)
        for image in images:
            found = nearest[image.row]
            if found is not None and (found.copied or found.near):
                kind: ReasonKind = "copy" if found.copied else "near"
                image.reasons += (Reason(kind, found.metric, found.score, work=found.work),)
        seconds = controller.seconds + perf_counter() - started
        return DrawnCall(output, pictures, images, nearest, seconds, controller.calls, custody.start)

    def redraw_late(self, drawn: DrawnCall) -> None:
        """Draws what a later step flagged again: the image alone, or the whole call where all of it was flagged."""
        call = self.call
        while late := [image.row for image in drawn.images if image.action == "redraw"]:
            row, count = late[0], len(drawn.images)
            alone = None
            if drawn.output is not None:
                alone = call_alone(self.pipe, call.request, row, count, drawn.start)
            if alone is None:
                self.redraw(drawn, late, call)
            else:
                self.redraw(drawn, [row], replace(call, kwargs={**call.kwargs, **alone}), alone=True)

    def redraw(self, drawn: DrawnCall, rows: Sequence[int], call: PipelineCall, alone: bool = False) -> None:
        """Draws these images again on the same noise, with the whole call unless it is that of one image `alone`."""
        started, ended = perf_counter(), kept_noise(call.request.get("generator"))
        self.rewound()
        images = [retried(image) if image.row in rows else left_aside(image.row) for image in drawn.images]
        with once_more():
            second = self.run(call, [retried(drawn.images[rows[0]], 0)] if alone else images)
        ended()
        for row in rows:
            place = 0 if alone else row
            spent = second.calls if drawn.output is not None else drawn.calls  # an abandoned call's were in vain
            drawn.images[row] = joined(drawn.images[row], second.images[place], spent)
            drawn.nearest[row] = second.nearest[place]
        drawn.take(second, rows, alone)
        drawn.seconds += perf_counter() - started

    def _nearest(self, pictures: Any, output_type: str, images: Sequence[ImageState]) -> list[Nearest | None]:
        """Of each image that is wanted, the protected picture that it is most like."""
        gallery = self.plan.gallery
        if not gallery:
            return [None] * len(pictures)
        finished = pil_images(self.pipe, pictures, output_type, self.plan.size)
        return [None if image.action == "aside" else gallery.nearest(finished[image.row]) for image in images]


def hand_out(
    drawn: DrawnCall, plan: Plan, blind_spots: BlindSpots, before: float, on_verdict: Callable[[Verdict], Any] | None
) -> Any:
    """The pipeline's output with blocked pictures blanked, and the verdicts, which `on_verdict` is told.

    Args:
        drawn: What was drawn.
        plan: With the policy.
        blind_spots: What the shield couldn't see of this call.
        before: Seconds that the shield took before the first step.
        on_verdict: See Shield.
    """
    started, policy = perf_counter(), plan.policy
    for image in drawn.images:
        found, blind = drawn.nearest[image.row], blind_spots.about(image.row)
        image.reasons += (*blind_spots.copies, *blind)
        image.scored &= not blind
        copied = (found is not None and found.copied) or blind_spots.copies
        if (copied and policy.on_copy == "block") or (blind and policy.on_unverified == "block"):
            image.action = "block"
        if image.action == "block":
            drawn.pictures = blanked(drawn.pictures, image.row)
    seconds = before + drawn.seconds + perf_counter() - started
    share = 1000.0 * seconds / max(len(drawn.images), 1)
    verdicts = [verdict_of(image, drawn.nearest[image.row], share) for image in drawn.images]
    for verdict in verdicts:
        tell(verdict)
        if on_verdict is not None:
            on_verdict(verdict)
    return with_verdicts(drawn.output, drawn.pictures, verdicts)
