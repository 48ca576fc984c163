"""One prompt behind the shield and without it, on the same noise; told step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import torch
from PIL import Image

from probes.model.generate import generators
from shield.errors import MissingSignalError
from shield.hooks.forward import Forward
from shield.hooks.intercept import intercepted
from shield.hooks.preview import Preview
from shield.hooks.recording import record
from shield.model.conditioning import null_conditioning
from shield.model.families import family_of
from shield.protected.gallery import Gallery
from shield.rewriters.attribution import word_weights
from shield.runtime.policy import Policy, preset
from shield.signals import Signals
from shield.thresholds import Threshold
from shield.types import Detector, MitigationContext, Nearest, Screen, Trace, Verdict, WordWeight
from shield.wrapper import Shield
from ui.calibrating import duration
from ui.preview import picture_of, predicted_clean
from ui.request import DrawingRequest

SHIELDED, UNSHIELDED = "behind the shield", "without the shield"


@dataclass(frozen=True)
class Frame:
    """One denoising step as it happens. `side` is SHIELDED or UNSHIELDED; `score` is known on the second only.

    `shielded` is the picture that the shield has handed out already, once there is one; `flagged` whether it saw
    anything by then.
    """

    side: str
    step: int
    steps: int
    score: float | None
    preview: Image.Image | None
    shielded: Image.Image | None = None
    flagged: bool = False


@dataclass(frozen=True)
class Drawing:
    """What came out. Without the shield: `recalled` is the protected work that the picture is most like, `curve` the
    detector's score of each step alone, `words` each word's share of the prompt's pull, empty where that can't be told.
    Where it isn't `calibrated`, memorization wasn't judged, and `calibration` says how long it takes to make up for it.
    """

    asked: DrawingRequest
    verdict: Verdict
    shielded: Image.Image
    unshielded: Image.Image
    recalled: Nearest | None
    detector: str
    curve: list[float | None]
    words: tuple[WordWeight, ...]
    calibration: str | None = None

    @property
    def calibrated(self) -> bool:
        """Whether memorization was judged, or refused by the policy."""
        return self.calibration is None

    @property
    def same(self) -> bool:
        """Whether both pictures are equal to the bit."""
        return self.shielded.size == self.unshielded.size and self.shielded.tobytes() == self.unshielded.tobytes()

    def about(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON: numbers that aren't finite become None."""
        return {
            "request": asdict(self.asked),
            "flagged": self.verdict.flagged,
            "calibrated": self.calibrated,
            "verdict": self.verdict.to_dict(),
            "same_picture_without_the_shield": self.same,
            "nearest_without_the_shield": None if self.recalled is None else asdict(self.recalled),
            "detector": self.detector,
            "score_by_step": self.curve,
            "words": [asdict(word) for word in self.words],
        }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def drawn(
    pipe: Any,
    asked: DrawingRequest,
    gallery: Gallery | None,
    concepts: Screen | None,
    preview: Preview | None,
    tell: Callable[[Frame], None],
    thresholds: Iterable[Threshold] | None = None,
    calibrated: bool = True,
) -> Drawing:
    """Draws behind the shield, then the same noise without it. `tell` may raise to cancel. Raises what Shield
    raises.

    What isn't `calibrated` is drawn with names and pictures looked for alone; by a policy that blocks what it can't
    judge it is blocked.
    """
    policy = preset(asked.policy)
    steps = _Steps(SHIELDED, preview, tell)
    output = _called(_shield(pipe, policy, gallery, concepts, thresholds, calibrated), asked, steps)
    verdict, shielded = output.verdicts[0], output.images[0]
    watch = _Watch(pipe, asked, policy.detectors[0])
    steps = _Steps(
        UNSHIELDED,
        preview,
        lambda frame: tell(replace(frame, shielded=shielded, flagged=verdict.flagged, score=watch.curve[-1])),
    )
    started = perf_counter()
    with intercepted(pipe, watch):
        unshielded = _called(pipe, asked, steps).images[0]
    rows = asked.steps * (2 if asked.guidance_scale > 1.0 else 1)
    wait = None if calibrated else duration(pipe, perf_counter() - started, rows)
    recalled = None if gallery is None else gallery.nearest(unshielded)
    return Drawing(asked, verdict, shielded, unshielded, recalled, watch.detector.name, watch.curve, watch.words, wait)


def _shield(
    pipe: Any,
    policy: Policy,
    gallery: Gallery | None,
    concepts: Screen | None,
    thresholds: Iterable[Threshold] | None,
    calibrated: bool,
) -> Shield:
    if calibrated:
        return Shield(pipe, policy, gallery, concepts, thresholds)
    if policy.on_unscored != "block":
        policy = replace(policy, detectors=())
    return Shield(pipe, policy, gallery, concepts, thresholds, calibrate="never")


def _called(call: Callable[..., Any], asked: DrawingRequest, steps: _Steps) -> Any:
    with torch.no_grad():
        return call(
            asked.prompt,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            generator=generators([asked.seed]),
            callback_on_step_end=steps,
        )


class _Steps:
    """A pipeline's own callback after each step: tells how far it is and what is being drawn."""

    def __init__(self, side: str, preview: Preview | None, tell: Callable[[Frame], None]) -> None:
        self.side, self.preview, self.tell = side, preview, tell
        self._before: torch.Tensor | None = None

    def __call__(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents, picture = values["latents"].detach().float(), None
        if self.preview is not None:
            # What the first step began with isn't known here; the shield may begin again.
            before = None if step == 0 else self._before
            clean = latents if before is None else predicted_clean(pipe.scheduler, step, before, latents)
            picture = picture_of(self.preview, clean)
        self._before = latents
        self.tell(Frame(self.side, step + 1, len(pipe.scheduler.timesteps), None, picture))
        return values


class _Watch:
    """An `on_forward` for the bare pipeline: scores every step, and weighs the prompt's words at the first."""

    def __init__(self, pipe: Any, asked: DrawingRequest, detector: Detector) -> None:
        self.pipe, self.asked = pipe, asked
        # One step at a time: a detector that reads several is asked about each alone.
        self.detector: Any = replace(detector, first_k=1)  # type: ignore[type-var]
        self.curve: list[float | None] = []
        self.words: tuple[WordWeight, ...] = ()

    def __call__(self, forward: Forward) -> None:
        try:
            step = record(forward, Signals.named(self.detector.needs), family_of(self.pipe).packed)
            score = _finite(float(self.detector.score(Trace([step]))[0]))
        except MissingSignalError:
            score = None
        # Separate guidance calls show a step twice: the prompt's half, then both.
        self.curve[forward.index :] = [score]
        if forward.index == 0 and forward.noise_uncond is not None and not self.words:
            self.words = self._weighed(forward)

    def _weighed(self, forward: Forward) -> tuple[WordWeight, ...]:
        null = null_conditioning(self.pipe, forward.conditioning.embeds.shape[1])
        case = MitigationContext(
            step=0,
            steps=self.asked.steps,
            guidance_scale=self.asked.guidance_scale,
            noise_cond=forward.noise_cond,
            noise_uncond=forward.noise_uncond,
            original=forward.conditioning,
            safe=None,
            null=null,
            rerun=lambda conditioning: forward.rerun([0], conditioning),
        )
        try:
            return word_weights(
                self.pipe,
                self.asked.prompt,
                case,
                forward.noise_uncond,
                structure=self.detector.name == "structure_gap",
            )
        except (MissingSignalError, torch.OutOfMemoryError):  # a backward pass needs more memory than a picture
            return ()
