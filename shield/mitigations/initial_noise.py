"""Start from another noise, one from which the prompt pulls less.

How early a trajectory leaves the memorized picture's basin depends on the noise that it starts from. Han, Kim, Joo,
Hong, Lee, "Adjusting Initial Noise to Mitigate Memorization in Text-to-Image Diffusion Models", NeurIPS 2025 (arXiv
2510.08625), with d the gap at noise x: batch-wise x -= rate * (d(x + radius * d / |d|) - d(x)), which lowers |d|
without a gradient, and guidance only after the first steps; per-sample AdamW on x until |d| is small. Jeon, Kim, No
(SAIL), ICML 2025 (arXiv 2412.04140): Adam on x for ||d(x + radius * d / |d|) - d(x)||^2 + prior * ||x||^2.

Ours does all three for each flagged image alone and stops after a fixed budget; a target is a share of the image's own
first gap instead of a number that holds for one checkpoint; and the new noise keeps the old one's norm. The prompt
isn't touched. Only an image that was flagged at the first step can be helped.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.hooks.latents import resized
from shield.types import MitigationContext


@dataclass(frozen=True)
class InitialNoise:
    """`way` "difference" (batch-wise) takes `iterations` steps of about 4 denoiser calls; "descent" (per-sample) and
    "sharpness" (SAIL) up to 5 times as many, with gradients: memory for one image's backward pass.

    `radius` is a root mean square, of a noise whose own is 1. "descent" and "sharpness" stop when the gap is `share` of
    the first one. For the first `unguided` share of all steps the prompt is ignored.
    """

    way: Literal["difference", "descent", "sharpness"] = "difference"
    iterations: int = 2
    rate: float = 0.7
    radius: float = 0.4
    learning_rate: float = 0.05
    share: float = 0.5
    prior: float = 0.05
    unguided: float = 0.1

    name: ClassVar[str] = "initial_noise"
    needs_prompt: ClassVar[bool] = False

    def predicted(self, case: MitigationContext) -> Tensor:
        """(1, ...). Raises MissingSignalError when guidance is off or the first step is over."""
        if case.noise_uncond is None:
            raise MissingSignalError("initial_noise needs classifier-free guidance; this run has none.")
        if case.step == 0:
            return self._restarted(case, case.noise_uncond)
        if "gaps" not in case.memory:
            raise MissingSignalError(f"initial_noise works at the first step; this is step {case.step + 1}.")
        return case.noise_uncond if case.step < self.unguided * case.steps else case.noise_cond

    def _restarted(self, case: MitigationContext, uncond: Tensor) -> Tensor:
        """Moves the latents; c' with u + g (c' - u) = the guided prediction at the new ones."""
        if case.latents is None or case.move is None:
            raise MissingSignalError("initial_noise needs the latents, which this call doesn't show.")
        start = case.latents.detach().float()
        case.memory["gaps"] = [_size(case.noise_cond.float() - uncond.float()).item()]
        moved = self._by_difference(case, start) if self.way == "difference" else self._by_gradient(case, start)
        moved = resized(moved, start).to(case.latents)
        case.move(moved)
        there = case.rerun(case.null, moved).to(uncond)
        gap = torch.zeros_like(there) if self.unguided > 0 else case.rerun(case.original, moved).to(uncond) - there
        return uncond + (there - uncond) / case.guidance_scale + gap

    def _by_difference(self, case: MitigationContext, x: Tensor) -> Tensor:
        for _ in range(self.iterations):
            gap = self._gap(case, x)
            x = x - self.rate * (self._gap(case, self._ahead(x, gap)) - gap)
        return x

    def _by_gradient(self, case: MitigationContext, start: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = start.clone().requires_grad_(True)
            optimizer = torch.optim.AdamW([x], lr=self.learning_rate, weight_decay=0.0)
            for _ in range(5 * self.iterations):
                gap = self._gap(case, x)
                case.memory["gaps"].append(_size(gap).item())
                if case.memory["gaps"][-1] <= self.share * case.memory["gaps"][0]:
                    break
                (x.grad,) = torch.autograd.grad(self._loss(case, x, gap), [x])
                optimizer.step()
        return x.detach()

    def _loss(self, case: MitigationContext, x: Tensor, gap: Tensor) -> Tensor:
        if self.way == "descent":
            return _size(gap)
        ahead = self._gap(case, self._ahead(x, gap.detach()))
        return (ahead - gap).pow(2).sum() + self.prior * x.pow(2).sum()

    def _gap(self, case: MitigationContext, x: Tensor) -> Tensor:
        like = case.noise_cond
        cond, uncond = (case.rerun(asked, x.to(like.dtype)) for asked in (case.original, case.null))
        return cond.float() - uncond.float()

    def _ahead(self, x: Tensor, gap: Tensor) -> Tensor:
        return x + self.radius * gap / _size(gap).clamp_min(1e-12)


def _size(gap: Tensor) -> Tensor:
    return gap.pow(2).mean().sqrt()
