"""How far the first steps leave the region in which a stable generation moves.

Huang, Zhang, Chen, Li, Hong, You, Yang, "Broken Memories: Detecting and Mitigating Memorization in Diffusion Models
with Degraded Generations", KDD 2026 (arXiv 2605.22050): memorized generations take larger steps than others, so the
size of each update x_t - x_{t+1} and of the predicted clean latent is standardized, step by step, by what
non-memorized runs do, and a run beyond 3 standard deviations is flagged. We could read summaries of the paper only.
Ours keeps the standard deviations as options (`fitted` makes them from a trace of negatives) and leaves the threshold
to calibration, so that the score alone is what they standardize: the largest z-score. Sizes are root mean squares, the
clean latent is the conditional prediction. Costs no denoiser call, and reads more than the first step.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.types import Trace

Reference = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Stability:
    """Largest |z| of the `first_k` - 1 updates and of the `first_k` clean latents, in standard deviations, per image.

    `updates` and `clean` hold (mean, standard deviation) for each. Without them (a model nobody fitted yet) it is the
    largest update itself, in units of the latent. Both hold for one scheduler, number of steps and guidance scale.
    """

    first_k: int = 3
    updates: Reference = ()
    clean: Reference = ()

    name: ClassVar[str] = "stability"
    needs: ClassVar[frozenset[str]] = frozenset({"latents", "noise_cond"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when fewer steps were recorded, or the reference has fewer."""
        updates, clean = self._sizes(trace)
        if not self.updates and not self.clean:
            return updates.amax(0)
        return torch.cat([_standardized(updates, self.updates), _standardized(clean, self.clean)]).amax(0)

    def fitted(self, trace: Trace) -> "Stability":
        """The same with the reference of these images, which are known not to be memorized. Two at least."""
        updates, clean = self._sizes(trace)
        if trace.batch < 2:
            raise MissingSignalError(f"A reference needs two images or more; the trace holds {trace.batch}.")
        return replace(self, updates=_moments(updates), clean=_moments(clean))

    def _sizes(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """Sizes of the updates, (first_k - 1, B), and of the predicted clean latents, (first_k, B)."""
        if self.first_k < 2:
            raise MissingSignalError(f"stability compares steps, so it needs two or more; first_k is {self.first_k}.")
        steps = trace.first(self.first_k)
        latents = torch.stack([step.signal_named("latents") for step in steps]).flatten(2)
        clean = torch.stack([step.predicted("cond", "x0") for step in steps]).flatten(2)
        return tuple(values.pow(2).mean(2).sqrt() for values in (latents[1:] - latents[:-1], clean))  # type: ignore


def _standardized(sizes: Tensor, reference: Reference) -> Tensor:
    """|z| of sizes (steps, B)."""
    if len(reference) != len(sizes):
        raise MissingSignalError(f"The reference is for {len(reference)} sizes; the trace gives {len(sizes)}.")
    mean, spread = torch.tensor(reference, dtype=sizes.dtype).unbind(1)
    return ((sizes - mean[:, None]) / spread[:, None]).abs()


def _moments(sizes: Tensor) -> Reference:
    mean, spread = sizes.double().mean(1), sizes.double().std(1).clamp_min(1e-12)
    return tuple(zip(mean.tolist(), spread.tolist(), strict=True))
