"""How strongly the prompt pulls on structure: the noise gap without each channel's spatial mean.

A prompt that merely names a ground color ("on a yellow background") shifts the mean of the latent channels and has as
large a gap as a memorized one; a memory fixes where things are. Removing each channel's spatial mean before taking
the size leaves only that. Not in the literature; builds on Wen et al., ICLR 2024 (arXiv 2407.21720).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.types import Trace


@dataclass(frozen=True)
class StructureGap:
    """Mean over the first `first_k` steps of the standard deviation over space of the gap, pooled over channels, per
    image.

    In units of the latent. At most the noise gap of the same trace. Blind to a memory that is one flat color.
    """

    first_k: int = 1
    quantity: str = "x0"

    name: ClassVar[str] = "structure_gap"
    needs: ClassVar[frozenset[str]] = frozenset({"noise_cond", "noise_uncond"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when guidance is off or fewer steps were recorded."""
        sizes = []
        for step in trace.first(self.first_k):
            gap = step.gap(self.quantity).flatten(2)
            structure = gap - gap.mean(dim=2, keepdim=True)
            sizes.append(structure.pow(2).mean(dim=(1, 2)).sqrt())
        return torch.stack(sizes).mean(0)
