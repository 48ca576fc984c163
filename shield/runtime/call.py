"""One pipeline call under way: its plan, its images and what has become of them, and what every part asks of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from shield.hooks.forward import Forward
from shield.hooks.latents import Moves
from shield.mitigations import NullPrompt
from shield.model.conditioning import Conditioning, null_conditioning, says_nothing
from shield.model.families import Family
from shield.protected.gallery import Gallery
from shield.reasons import Reason
from shield.runtime.likeness import Likeness
from shield.runtime.policy import Policy
from shield.runtime.preview_checks import Check, PreviewMonitor
from shield.runtime.settings import Models, running_setting
from shield.runtime.trajectory import Due
from shield.thresholds import Setting, Threshold
from shield.types import Mention, Mitigation, Score, Screen, Trace, WordWeight


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
    prompt's. `size`: its pictures' height and width. `from_picture`: one was given. `unreadable`: why no step of it can
    be judged, if none can. `calibrate`, `calibrate_watch`: make the commands for the thresholds that it may lack.
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
    from_picture: bool = False
    unreadable: str | None = None
    calibrate: Callable[[], str] = lambda: "calibrate"
    calibrate_watch: Callable[[], str] = lambda: "calibrate-watch"


class CallState:
    """What one call's scorer, previews and steering share.

    `moves`: latents for the scheduler's next step. `due`: the checks of previews that are due at the present step.
    `points`: what scores which step. `settings`: which settings each check ran at. `tokens`: how long the call's
    conditionings are. `guidance_scale()` is the present one.
    """

    def __init__(self, pipe: Any, plan: Plan, images: list[ImageState], guidance_scale: Callable[[], float]) -> None:
        self.pipe, self.plan, self.images = pipe, plan, images
        self.policy, self.family = plan.policy, plan.family
        self.guidance_scale = guidance_scale
        self.trace = Trace()
        self.levels: list[tuple[float, float]] = []
        self.moves: Moves = {}
        self.settings: dict[Check, Setting] = {}
        self.due: list[Check] = []
        self.points: Due = {}
        self.tokens = 0
        self.encoded_null: Conditioning | None = None
        self._read: Setting | None = None
        self.likeness = Likeness(pipe, plan.gallery, plan.size) if plan.gallery else None

    @property
    def null(self) -> Conditioning:
        """The empty prompt's row, encoded once when first needed."""
        if self.encoded_null is None:
            self.encoded_null = null_conditioning(self.pipe, self.tokens)
        return self.encoded_null

    @cached_property
    def unasked(self) -> frozenset[int]:
        """Rows whose prompt is the empty one. Their gap is zero whatever the model draws, also a memorized work."""
        nothing = {p: says_nothing(self.pipe, p) for p in {image.prompt for image in self.images} if p is not None}
        return frozenset(image.row for image in self.images if image.prompt is not None and nothing[image.prompt])

    def has_own_uncond(self, forward: Forward) -> bool:
        """Whether the unconditional prediction isn't the empty prompt's beside the conditional one."""
        return self.plan.own_uncond or forward.other_micro

    def count(self, calls: int) -> None:
        """Extra denoiser calls that every image had."""
        for image in self.images:
            image.extra_calls += calls

    def setting(self, forward: Forward, levels: Sequence[tuple[float, float]]) -> Setting:
        """What a threshold has to be for, at these (timestep, signal) levels. The pipeline itself is read once."""
        shape, scale = tuple(forward.latents.shape[1:]), self.guidance_scale()
        if self._read is None:
            self._read = running_setting(self.pipe, self.plan.models, shape, (), scale, forward.micro_conditioning)
        times, signals = tuple(time for time, _ in levels), tuple(signal for _, signal in levels)
        return replace(self._read, timesteps=times, signals=signals, guidance_scale=scale)
