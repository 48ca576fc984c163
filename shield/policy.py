"""From scores to a decision. Pure: no model, no pictures, no state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shield.detectors import NoiseGap
from shield.errors import BadRequestError
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.rewriters import ClauseDrop, ConceptSubstitution
from shield.types import Detector, Mention, Mitigation, Rewriter, Score

ON_FLAG = ("mitigate", "block", "report")
ON_UNSCORED = ("raise", "block", "pass")
ON_COPY = ("block", "report")


@dataclass(frozen=True)
class Policy:
    """What is looked at and what is done about it.

    An image is flagged when any detector's score is above its threshold, or when its prompt mentions a protected
    concept. `on_flag`: "mitigate" tries `mitigations` in order, each with the prompts that `rewriters` propose in
    order, and blocks when none passes the detectors; "block" returns a blank picture; "report" changes nothing.
    `on_unscored`: what happens when an image couldn't be judged; "raise" and "block" fail closed. `on_copy`: the same
    for a finished picture that copies a protected one. `extra_calls` bounds the extra denoiser calls for a flagged
    image while proposals are tried. `extra_uncond` allows one extra call a scored step for all images when guidance
    is off, which leaves no gap to score.
    """

    detectors: tuple[Detector, ...] = (NoiseGap(),)
    mitigations: tuple[Mitigation, ...] = (EmbeddingMix(), NullPrompt())
    rewriters: tuple[Rewriter, ...] = (ConceptSubstitution(), ClauseDrop())
    on_flag: str = "mitigate"
    on_unscored: str = "raise"
    on_copy: str = "block"
    extra_calls: int = 4
    extra_uncond: bool = False

    def __post_init__(self) -> None:
        allowed = {"on_flag": ON_FLAG, "on_unscored": ON_UNSCORED, "on_copy": ON_COPY}
        for option, values in allowed.items():
            if getattr(self, option) not in values:
                raise BadRequestError(f"{option} is one of {', '.join(values)}; {getattr(self, option)!r} was given.")
        if self.extra_calls < 0:
            raise BadRequestError(f"extra_calls can't be negative; {self.extra_calls} was given.")

    @property
    def horizon(self) -> int:
        """How many first steps are recorded."""
        return max((detector.first_k for detector in self.detectors), default=0)

    @property
    def needs(self) -> frozenset[str]:
        """Which signals are recorded."""
        return frozenset().union(*(detector.needs for detector in self.detectors))


def preset(name: str) -> Policy:
    """ "monitor" reports and changes nothing; "balanced" mitigates; "strict" also blocks what it can't judge and scores
    runs without guidance. Raises BadRequestError.
    """
    presets = {
        "monitor": replace(Policy(), on_flag="report", on_copy="report", on_unscored="pass"),
        "balanced": Policy(),
        "strict": replace(Policy(), on_unscored="block", extra_uncond=True),
    }
    if name not in presets:
        raise BadRequestError(f"There is no policy {name!r}; use {', '.join(presets)}.")
    return presets[name]


@dataclass(frozen=True)
class Decision:
    """`action` is pass, mitigate, block or report; `scored` False when an image couldn't be judged."""

    action: str
    reasons: tuple[str, ...] = ()
    scored: bool = True


def decided(scores: Sequence[Score], mentions: Sequence[Mention], policy: Policy) -> Decision:
    """What to do with one image. A flag outweighs a missing judgement, and both outweigh a pass."""
    flags = [f"{s.detector} {s.value:.4g} is above {s.threshold:.4g}" for s in scores if s.flagged]
    flags += [f"the prompt mentions {m.concept} ({m.how})" for m in mentions]
    unscored = [f"{s.detector} couldn't judge" for s in scores if s.flagged is None]
    if flags:
        return Decision(policy.on_flag, tuple(flags + unscored), not unscored)
    if unscored:
        return Decision("block" if policy.on_unscored != "pass" else "pass", tuple(unscored), False)
    return Decision("pass")
