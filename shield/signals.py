"""What can be recorded of a denoising step. Detectors name it in their `needs`; the names are read here alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from shield.errors import MissingSignalError

TENSORS = ("latents", "noise_cond", "noise_uncond")
LATE, SHIFTED = "late", "shifted"
ATTENTION = "attention:"  # and a module path: the attention shares of one cross-attention layer
ENDING = "ending:"  # and a module path: where in the picture that layer attends to the last text token
REDRAWN = "redrawn:"  # and a number: what the prompt predicts from that many other noises


@dataclass(frozen=True)
class Signals:
    """What to record of each step, and at the first step to ask for (shield/hooks/extra_predictions.py).

    Attributes:
        tensors: Some of TENSORS.
        layers: Module paths of cross-attention layers; those whose ending is wanted keep their ENDING.
        late: The predictions for the same latents near the end.
        shifted: The predictions for latents that are moved along the gap.
        redrawn: From how many other noises the prompt predicts.
    """

    tensors: frozenset[str] = frozenset()
    layers: tuple[str, ...] = ()
    late: bool = False
    shifted: bool = False
    redrawn: int = 0

    @classmethod
    def named(cls, needs: Iterable[str]) -> "Signals":
        """The signals of these names; of REDRAWN the largest number counts. Raises MissingSignalError."""
        names = frozenset(needs)
        asked = [name for name in names if name.startswith((ATTENTION, ENDING, REDRAWN))]
        unknown = names - {*TENSORS, LATE, SHIFTED, *asked}
        if unknown:
            known = ", ".join((*TENSORS, LATE, SHIFTED))
            raise MissingSignalError(f"Unknown signals {sorted(unknown)}; known: {known}.")
        return cls(
            names & frozenset(TENSORS),
            tuple(sorted(name.removeprefix(ATTENTION) for name in asked if not name.startswith(REDRAWN))),
            LATE in names,
            SHIFTED in names,
            max((int(name.removeprefix(REDRAWN)) for name in asked if name.startswith(REDRAWN)), default=0),
        )

    @property
    def extra_calls(self) -> int:
        """How many extra denoiser calls they cost each image."""
        return 2 * (self.late + self.shifted) + self.redrawn
