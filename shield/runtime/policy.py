"""From scores to a decision. Pure: no model, no pictures, no state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shield.detectors import StructureGap
from shield.errors import BadRequestError
from shield.hooks.preview import PREVIEWS
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.reasons import Reason
from shield.rewriters import ClauseDrop, ConceptSubstitution, Generalization
from shield.runtime.trajectory import USUAL_POINTS, DetectorAt, can_look_again, detectors_at
from shield.signals import Signals
from shield.types import Detector, Mention, Mitigation, Rewriter, Score

ON_FLAG = ("mitigate", "block", "report")
ON_UNSCORED = ("raise", "block", "pass")
ON_COPY = ("block", "report")
ON_UNSEEN = ("block", "report")


@dataclass(frozen=True)
class Policy:
    """What is looked at and what is done about it.

    An image is flagged when any detector's score is above its threshold, or when its prompt mentions a protected
    concept. `on_flag`: "mitigate" tries `mitigations` in order, each with the prompts that `rewriters` propose in
    order, and blocks when none passes the detectors; "block" returns a blank picture; "report" changes nothing.
    `on_unscored`: what happens when an image couldn't be judged; "raise" and "block" fail closed. `on_copy`: the same
    for a finished or given picture that copies a protected one. `on_unverified`: what happens when something came into
    the call that couldn't be checked (shield/runtime/blind_spots.py): a prompt as embeddings or with learned words, a
    picture where there is no gallery, a callback's changes. `extra_calls` bounds the extra denoiser calls for a flagged
    image while proposals are tried. `extra_uncond`: where guidance is off or distilled, which leaves no gap to score,
    the empty prompt is predicted beside each scored step, one extra call for all images; without it they can't be
    judged.

    `watch_steps`: at which shares of the schedule (0 is the first step) previews are compared with the gallery and, by
    meaning, with the concepts, as far as they are given; `preview` is how they are made (shield/hooks/preview.py). A
    hit is a flag like any other, and an image that is being mitigated already gets the next mitigation. `retries`: how
    often a finished picture that is a copy after all, or that nothing helped once it was under way, is drawn again on
    the same noise before it is blocked: with the next mitigation, or from the first step on with what came late. A
    retry costs a second call of the whole batch.

    `points`: at which shares of the schedule the detectors that read one step score, with one false-alarm budget for
    all of them (shield/runtime/trajectory.py); at later ones kept_structure in structure_gap's place. An image that
    only a later point flags is drawn again alone, mitigated from its first step: a call of its own for each mitigation
    that is tried, and none with `retries=0`, where it is blocked. By default the usual points where thresholds for all
    of them are at hand, as they are for the shipped testbed, else the first step. Points that are given are calibrated
    on the first call like everything else, which takes drawing the benign prompts as far as the last point: for
    (0, 0.4) of 25 steps 22 evaluations a prompt with guidance, where the first step takes one. Points that fall on one
    step, as these two do of two steps, are one look with the whole budget; of given ones the log "shield" says so.

    Whatever the points, an image that a detector flagged, and that is drawn from another prompt, is compared at share
    0.4 of the schedule with what the flagged prompt predicted first (shield/runtime/remains.py). Where the memory is
    still there, it is drawn again like one that is flagged late.

    `registry`: prompts are screened for the names that ship (shield/protected/registry.toml) where a Shield is given no
    `concepts` of its own.
    """

    detectors: tuple[Detector, ...] = (StructureGap(),)
    mitigations: tuple[Mitigation, ...] = (EmbeddingMix(), NullPrompt())
    rewriters: tuple[Rewriter, ...] = (ConceptSubstitution(), Generalization(), ClauseDrop())
    on_flag: str = "mitigate"
    on_unscored: str = "raise"
    on_copy: str = "block"
    on_unverified: str = "report"
    extra_calls: int = 4
    extra_uncond: bool = True
    watch_steps: tuple[float, ...] = ()
    preview: str = "linear"
    retries: int = 1
    points: tuple[float, ...] | None = None
    registry: bool = True

    def __post_init__(self) -> None:
        allowed = {"on_flag": ON_FLAG, "on_unscored": ON_UNSCORED, "on_copy": ON_COPY, "on_unverified": ON_UNSEEN}
        allowed["preview"] = PREVIEWS
        for option, values in allowed.items():
            if getattr(self, option) not in values:
                raise BadRequestError(f"{option} is one of {', '.join(values)}; {getattr(self, option)!r} was given.")
        for option in ("extra_calls", "retries"):
            if getattr(self, option) < 0:
                raise BadRequestError(f"{option} can't be negative; {getattr(self, option)} was given.")
        for option in ("watch_steps", "points"):
            if not all(0.0 <= share <= 1.0 for share in getattr(self, option) or ()):
                raise BadRequestError(
                    f"{option} are shares from 0 to 1 of the schedule; {getattr(self, option)} was given."
                )
        if self.points == ():
            raise BadRequestError("points names one share of the schedule at least, as in (0, 0.4); () was given.")

    @property
    def horizon(self) -> int:
        """How many first steps are recorded."""
        return max((detector.first_k for detector in self.detectors), default=0)

    @property
    def followed(self) -> tuple[DetectorAt, ...]:
        """The looks of the detectors that can look again, at each of the points."""
        return detectors_at(self.detectors, USUAL_POINTS if self.points is None else self.points)

    @property
    def calibrated_ahead(self) -> tuple[Detector | DetectorAt, ...]:
        """What a call needs thresholds for whatever is at hand."""
        if self.points is None:
            return self.detectors
        return (*(one for one in self.detectors if not can_look_again(one)), *self.followed)

    @property
    def signals(self) -> Signals:
        """The same as data. Raises MissingSignalError for one that nobody records."""
        return Signals.named(self.needs)

    @property
    def needs(self) -> frozenset[str]:
        """Which signals are recorded."""
        looking = (*self.detectors, *(one.detector for one in self.followed))
        return frozenset().union(*(detector.needs for detector in looking))


def preset(name: str) -> Policy:
    """ "monitor" reports and changes nothing; "balanced" mitigates; "strict" also blocks what it can't judge; "names"
    looks at names and pictures alone, not at memorization, and so needs no thresholds.

    Raises BadRequestError.
    """
    presets = {
        "monitor": replace(Policy(), on_flag="report", on_copy="report", on_unscored="pass", retries=0),
        "balanced": Policy(),
        "strict": replace(Policy(), on_unscored="block", on_unverified="block"),
        "names": replace(Policy(), detectors=()),
    }
    if name not in presets:
        raise BadRequestError(f"There is no policy {name!r}; use {', '.join(presets)}.")
    return presets[name]


@dataclass(frozen=True)
class Decision:
    """`action` is pass, mitigate, block or report; `scored` False when an image couldn't be judged."""

    action: str
    reasons: tuple[Reason, ...] = ()
    scored: bool = True


def decided(
    scores: Sequence[Score], mentions: Sequence[Mention], policy: Policy, earlier: Sequence[Reason] = ()
) -> Decision:
    """What to do with one image. A flag outweighs a missing judgement, and both outweigh a pass. `earlier`: what
    another attempt at this image was flagged for.
    """
    # What makes a verdict `flagged` begins here; what a finished or given picture copies is seen later, by the wrapper.
    flags = [*earlier, *(_flag(score) for score in scores if score.flagged)]
    flags += [Reason("concept", work=m.concept, value=m.similarity, detail=m.how) for m in mentions]
    unscored = [Reason("unscored", s.detector, detail=s.why) for s in scores if s.flagged is None]
    if flags:
        return Decision(policy.on_flag, tuple(flags + unscored), not unscored)
    if unscored:
        return Decision("block" if policy.on_unscored != "pass" else "pass", tuple(unscored), False)
    return Decision("pass")


def _flag(score: Score) -> Reason:
    return Reason("above_threshold", score.detector, score.value, score.threshold, score.step, score.nearest)
