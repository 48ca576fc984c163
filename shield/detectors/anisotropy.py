"""The size of the gap at high noise together with its direction at low noise, both on the same pure noise.

Where log-probability is anisotropic (low noise) a memorized prompt pulls along the unconditional prediction, which a
size alone doesn't see. Asthana et al., ICLR 2026 (arXiv 2601.20642): M = a ||gap at t ~ T|| + b cos(gap, uncond) at t
~ 0, with weights chosen per model on the test lists. Ours measures the size like noise_gap (root mean square on the
predicted clean latent), so that one pair of weights is a start for every model; choose them on your own development
prompts. Needs two extra denoiser calls for every image.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.types import Trace


@dataclass(frozen=True)
class Anisotropy:
    """`size_weight` * size + `direction_weight` * cosine, per image. The cosine lies in -1..1.

    The direction comes from asking the denoiser about pure noise as if it were nearly clean: no real step, so the
    picture doesn't change.
    """

    size_weight: float = 8.0
    direction_weight: float = 1.0
    first_k: ClassVar[int] = 1

    name: ClassVar[str] = "anisotropy"
    needs: ClassVar[frozenset[str]] = frozenset({"noise_cond", "noise_uncond", "late"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when guidance is off or the late predictions weren't recorded."""
        step = trace.first(1)[0]
        size = step.gap("x0").flatten(1).pow(2).mean(1).sqrt()
        late = step.asked_late()
        gap, uncond = late.gap("epsilon").flatten(1), late.predicted("uncond", "epsilon").flatten(1)
        return self.size_weight * size + self.direction_weight * torch.cosine_similarity(gap, uncond, dim=1)
