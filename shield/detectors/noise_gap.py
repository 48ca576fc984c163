"""How strongly the prompt pulls: the size of the gap between conditional and unconditional prediction.

A memorized prompt drags every noise to one picture, so its text-conditional prediction stands far from the
unconditional one already at the first step. Wen, Liu, Chen, Lyu, "Detecting, Explaining, and Mitigating Memorization
in Diffusion Models", ICLR 2024 (arXiv 2407.21720). Ours differs in two ways: the gap is measured on one quantity
whatever the model predicts (the predicted clean latent by default; the epsilon gap is exactly zero at zero terminal
signal), and it is a root mean square over the latent instead of a norm, so that latent sizes compare.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.types import Trace


@dataclass(frozen=True)
class NoiseGap:
    """Mean over the first `first_k` steps of ||gap||_2 / sqrt(numel), per image, in units of the latent.

    Don't trust it for prompts that fix one thing strongly without being memorized ("on a yellow background"): use
    structure_gap.
    """

    first_k: int = 1
    quantity: str = "x0"

    name: ClassVar[str] = "noise_gap"
    needs: ClassVar[frozenset[str]] = frozenset({"noise_cond", "noise_uncond"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when guidance is off or fewer steps were recorded."""
        sizes = [step.gap(self.quantity).flatten(1).pow(2).mean(1).sqrt() for step in trace.first(self.first_k)]
        return torch.stack(sizes).mean(0)
