"""How much of the picture that the first step guesses is still there later.

An ordinary prompt leaves most of the picture to the noise: the first step predicts an average of all pictures that fit,
and where things are is decided on the way. A memorized prompt has one picture to predict, from the first step on. So
the prediction of the first step is compared with that of a later one, by the cosine of what both hold above low spatial
frequencies (as structure_gap does, and for its reasons). A cosine knows no contrast, so that works which are a smooth
shading, whose gap is small, stand out like any other. Needs no unconditional prediction, and no denoiser call. Not in
the literature; the observation that memorized generations settle at once is Wen et al.'s, ICLR 2024 (arXiv 2407.21720).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.types import Trace

LEAST = 1e-6  # of what has changed: equal predictions score 13.8


@dataclass(frozen=True)
class KeptStructure:
    """Minus the natural logarithm of the share that has changed, 1 - cosine, of the predicted clean latent's structure
    between the first and the `first_k`-th step; so 2.3 is a tenth changed, 4.6 a hundredth.

    `cycles` as in structure_gap. Two steps that were picked along a schedule are compared in the same way.
    """

    first_k: int = 11
    cycles: float = 2.0

    name: ClassVar[str] = "kept_structure"
    needs: ClassVar[frozenset[str]] = frozenset({"latents", "noise_cond"})
    compares_first: ClassVar[bool] = True

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when fewer steps were recorded, or one step alone is read."""
        if self.first_k < 2:
            raise MissingSignalError(
                f"kept_structure compares steps, so it needs two or more; first_k is {self.first_k}."
            )
        steps = trace.first(self.first_k)
        guessed, later = (structure(step.predicted("cond"), self.cycles).flatten(1) for step in (steps[0], steps[-1]))
        changed = 1.0 - torch.nn.functional.cosine_similarity(guessed, later)
        return -changed.clamp_min(LEAST).log()


def structure(latent: Tensor, cycles: float) -> Tensor:
    """Its Fourier coefficients at `cycles` and more per picture, as real numbers, of the same sum of squares.

    Args:
        latent: (B, C, H, W), or packed (B, C, L), whose rows can't be told from columns: of these only each channel's
            mean is removed, and what is left comes back as it is.
        cycles: Above 0 and up to 1: all but each channel's mean.

    Returns:
        (B, C, H, W, 2), or (B, C, L).
    """
    if latent.ndim != 4:
        rows = latent.flatten(2)
        return rows - rows.mean(dim=2, keepdim=True)
    height, width = latent.shape[2:]
    rows, columns = torch.fft.fftfreq(height) * height, torch.fft.fftfreq(width) * width
    kept = torch.hypot(rows[:, None], columns[None]) >= cycles
    return torch.view_as_real(torch.fft.fft2(latent, norm="ortho") * kept)
