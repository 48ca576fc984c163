"""How sharply the prompt's pull changes along itself: the curvature of log-probability that the prompt adds.

A memorized prompt puts its pictures on a narrow peak, which shows at the first step already as large negative
eigenvalues of the Hessian. Jeon, Kim, No, "Understanding and Mitigating Memorization in Generative Models via
Sharpness of Probability Landscapes" (SAIL), ICML 2025 (arXiv 2412.04140): ||H s||^2 with s the difference of the
conditional and the unconditional score and H that of their Hessians. Ours differs in three ways: H s is a difference
quotient along s (a step of a quarter of the noise) instead of a Jacobian-vector product, which needs neither gradients
nor another kind of attention; s is the gap on the predicted clean latent, since every score difference is zero at zero
terminal signal; and the norm isn't squared. Needs two extra denoiser calls for every image.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.types import Trace


@dataclass(frozen=True)
class Sharpness:
    """||J g|| / sqrt(numel), per image, in units of the latent: g is the gap, J its derivative with respect to x_t.

    Zero where the gap doesn't depend on the noise: a memory so strong that every noise gives it has no slope to show.
    """

    quantity: str = "x0"
    first_k: ClassVar[int] = 1

    name: ClassVar[str] = "sharpness"
    needs: ClassVar[frozenset[str]] = frozenset({"latents", "noise_cond", "noise_uncond", "shifted"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when guidance is off or the shifted predictions weren't recorded."""
        step = trace.first(1)[0]
        moved = step.asked_shifted()
        gap, there = step.gap(self.quantity), moved.gap(self.quantity)
        way = _size(moved.signal_named("latents") - step.signal_named("latents"))
        return _size(gap) * _size(there - gap) / way.clamp_min(torch.finfo(torch.float32).tiny)


def _size(values: Tensor) -> Tensor:
    """Root mean square of each image, (B,)."""
    return values.flatten(1).pow(2).mean(1).sqrt()
