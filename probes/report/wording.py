"""How attacks are spoken of, in reports and on the page, in a terminal and in tables. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """One attack's: how the sentence about its rate begins, with a place for how far it went, and its curve's axis."""

    start: str
    axis: str
    unit: str = "step"

    def far(self, *numbers: int) -> str:
        """How far points of the curve went: "50 steps", "10, 25 steps", "level 4"."""
        listed = ", ".join(map(str, numbers))
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
}
EMBEDDING = WORDINGS["adversarial_embedding"]


def wording_of(attack: str | None) -> Wording:
    """An attack's by its name; without one the attack is on the embedding."""
    if attack is None or attack in WORDINGS:
        return WORDINGS[attack or "adversarial_embedding"]
    return Wording(
        f"An attacker who uses {attack} for {{}} got the work back", f"steps of {attack} (0: the plain caption)"
    )
