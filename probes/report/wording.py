"""How stages, groups, controls and attacks are spoken of, in reports, on the page, in a terminal and in tables.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STAGES = {
    "before": "before",
    "shielded": "through the shield",
    "twin": "clean twin",
    "pruned": "pruned",
    "random_pruned": "random weights pruned (control)",
    "attacked": "pruned, then attacked",
    "nonmember_attacked": "pruned, then attacked",
    "twin_attacked": "clean twin, attacked",
    "locality": "searched from noise",
    "hardened": "hardened",
    "hardened_attacked": "hardened, then attacked",
    "hardened_nonmember_attacked": "hardened, then attacked",
}
GROUPS = {
    "members": "works in the training data",
    "nonmembers": "never trained on",
    "prompts": "your prompts",
    "characters": "characters",
    "styles": "house styles",
    "scenes": "ordinary scenes",
}
LOCALITY = {
    "results": "results of one work",
    "starts": "starts of one work",
    "captions": "captions of different works",
    "captions of non-members": "captions of pictures never seen",
}
CONTROLS = {
    "nonmember_attacked": "pictures the model never saw",
    "twin_attacked": "the same works on the clean twin",
    "hardened_nonmember_attacked": "pictures the model never saw",
}

SEVERITIES = {"high": "high", "medium": "medium", "low": "low", "good": "good", "unknown": "unclear"}
MEMORIZATION = {"VM": "verbatim", "TM": "template"}
WORDS = {
    "copy": "So like the work it was asked for as no two unrelated pictures are: closer than a threshold that was "
    "calibrated on pictures known not to be copies.",
    "near copy": "No copy by that threshold, and still closer to the work than any two unrelated pictures are to "
    "each other. Look at it.",
    "verbatim": "The whole picture comes back; of a template only its layout or a part does.",
    "exposures": "How often a work was shown to the model in training.",
    "clean twin": "A model trained in the same way without these works: it draws what captions alone give.",
    "non-members": "Pictures like the works, never trained on and asked for in the same way.",
    "95% interval": "The range that fits these pictures. It resamples whole works: ten seeds of one work are not ten "
    "independent observations.",
}
"""Words of a report, explained where they stand."""

FLOW = {
    "work": "collect the works",
    "scan": "score the prompts",
    "before": "draw",
    "shielded": "draw behind the shield",
    "twin": "draw with the clean twin",
    "localize": "locate weights",
    "pruned": "prune and draw",
    "random_pruned": "prune at random (control)",
    "attacked": "attack",
    "nonmember_attacked": "attack unseen pictures (control)",
    "twin_attacked": "attack the clean twin (control)",
    "surrogates": "draw surrogates",
    "kept": "draw what is kept",
    "harden": "harden",
    "hardened": "draw again",
    "hardened_attacked": "attack again",
    "hardened_nonmember_attacked": "attack unseen pictures again (control)",
}
"""What a stage does."""


@dataclass(frozen=True)
class Wording:
    """One attack's: how the sentence about its rate begins, with a place for how far it went, and its curve's axis."""

    start: str
    axis: str
    unit: str = "step"

    @property
    def budget(self) -> str:
        """What points of the curve are numbers of."""
        return "levels" if self.unit == "%" else f"{self.unit}s"

    def far(self, *numbers: int) -> str:
        """How far points of the curve went: "50 steps", "10, 25 steps", "level 4",
        "40 %"."""
        listed = ", ".join(map(str, numbers))
        if self.unit == "%":
            return f"{listed} %"
        if self.unit == "level":
            return f"level{'s' if len(numbers) > 1 else ''} {listed}"
        return f"{listed} {self.unit}{'' if numbers == (1,) else 's'}"


WORDINGS: Mapping[str, Wording] = {
    "adversarial_embedding": Wording(
        "An attacker who tunes the prompt's embedding for {} got the work back",
        "steps of the attack on the prompt's embedding (0: the plain caption)",
    ),
    "prompt_search": Wording(
        "An attacker who searches for other words for {} got the work back",
        "steps of the search for other words (0: the plain caption)",
    ),
    "paraphrase": Wording(
        "Asked with the caption distorted to {}, the model returned a copy",
        "level of the paraphrase (0: the plain caption)",
        "level",
    ),
    "completion": Wording(
        "Left the last {} of its steps from the noised work, with the empty prompt, the model returned a copy",
        "percent of the steps that the model draws, from the noised work and without a prompt",
        "%",
    ),
    "inpainting": Wording(
        "Left to fill in {} of the work's width, with the empty prompt, the model returned a copy of that part",
        "percent of the work that is masked and filled in without a prompt",
        "%",
    ),
    "noise": Wording(
        "Drawing from noise, {} of DDPM's added at each step, with the empty prompt, the model returned a copy",
        "percent of DDPM's noise that each step adds, without a prompt",
        "%",
    ),
}
EMBEDDING = WORDINGS["adversarial_embedding"]


def wording_of(attack: str | None) -> Wording:
    """An attack's by its name; without one the attack is on the embedding."""
    if attack is None or attack in WORDINGS:
        return WORDINGS[attack or "adversarial_embedding"]
    return Wording(
        f"An attacker who uses {attack} for {{}} got the work back", f"steps of {attack} (0: the plain caption)"
    )
