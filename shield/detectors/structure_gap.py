"""How strongly the prompt pulls on structure: the noise gap without its low spatial frequencies.

A prompt that merely names a ground color ("on a yellow background") shifts the mean of the latent channels and has as
large a gap as a memorized one, and one that names a thing shifts the middle against the border; a memory fixes where
everything is. Removing what varies less than twice across the picture before taking the size leaves only that. Not in
the literature; builds on Wen et al., ICLR 2024 (arXiv 2407.21720).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.detectors.kept_structure import KeptStructure, structure
from shield.types import Detector, Trace


@dataclass(frozen=True)
class StructureGap:
    """Mean over the first `first_k` steps of the root mean square, over space and channels, of what the gap holds at
    `cycles` and more per picture (above 0 and up to 1: all but each channel's mean).

    In units of the latent. At most the noise gap of the same trace. Blind to a memory that is a smooth shading. Packed
    latents (B, C, L), as Flux has them, tell no rows from columns: of them only each channel's mean is removed.
    """

    first_k: int = 1
    quantity: str = "x0"
    cycles: float = 2.0

    name: ClassVar[str] = "structure_gap"
    needs: ClassVar[frozenset[str]] = frozenset({"noise_cond", "noise_uncond"})
    later: ClassVar[Detector] = KeptStructure()  # what looks at later points of a schedule in its place

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when guidance is off or fewer steps were recorded."""
        gaps = [step.gap(self.quantity) for step in trace.first(self.first_k)]
        powers = [structure(gap, self.cycles).flatten(1).pow(2).sum(1) / gap[0].numel() for gap in gaps]
        return torch.stack(powers).sqrt().mean(0)
