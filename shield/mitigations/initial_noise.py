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

    def predicted(self, context: MitigationContext) -> Tensor:
        """(1, ...). Raises MissingSignalError when guidance is off or the first step is over."""
        if context.noise_uncond is None:
            raise MissingSignalError("initial_noise needs classifier-free guidance; this run has none.")
        if context.step == 0:
            return self._restarted(context, context.noise_uncond)
        if "gaps" not in context.memory:
            raise MissingSignalError(f"initial_noise works at the first step; this is step {context.step + 1}.")
        return context.noise_uncond if context.step < self.unguided * context.steps else context.noise_cond

    def _restarted(self, context: MitigationContext, uncond: Tensor) -> Tensor:
        """Moves the latents; c' with u + g (c' - u) = the guided prediction at the new ones."""
        if context.latents is None or context.move is None:
            raise MissingSignalError("initial_noise needs the latents, which this call doesn't show.")
        start = context.latents.detach().float()
        context.memory["gaps"] = [_size(context.noise_cond.float() - uncond.float()).item()]
        moved = self._by_difference(context, start) if self.way == "difference" else self._by_gradient(context, start)
        moved = resized(moved, start).to(context.latents)
        context.move(moved)
        there = context.rerun(context.null, moved).to(uncond)
        gap = (
            torch.zeros_like(there) if self.unguided > 0 else context.rerun(context.original, moved).to(uncond) - there
        )
        return uncond + (there - uncond) / context.guidance_scale + gap

    def _by_difference(self, context: MitigationContext, x: Tensor) -> Tensor:
        for _ in range(self.iterations):
            gap = self._gap(context, x)
            x = x - self.rate * (self._gap(context, self._ahead(x, gap)) - gap)
        return x

    def _by_gradient(self, context: MitigationContext, start: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = start.clone().requires_grad_(True)
            optimizer = torch.optim.AdamW([x], lr=self.learning_rate, weight_decay=0.0)
            for _ in range(5 * self.iterations):
                gap = self._gap(context, x)
                context.memory["gaps"].append(_size(gap).item())
                if context.memory["gaps"][-1] <= self.share * context.memory["gaps"][0]:
                    break
                (x.grad,) = torch.autograd.grad(self._loss(context, x, gap), [x])
                optimizer.step()
        return x.detach()

    def _loss(self, context: MitigationContext, x: Tensor, gap: Tensor) -> Tensor:
        if self.way == "descent":
            return _size(gap)
        ahead = self._gap(context, self._ahead(x, gap.detach()))
        return (ahead - gap).pow(2).sum() + self.prior * x.pow(2).sum()

    def _gap(self, context: MitigationContext, x: Tensor) -> Tensor:
        like = context.noise_cond
        cond, uncond = (context.rerun(asked, x.to(like.dtype)) for asked in (context.original, context.null))
        return cond.float() - uncond.float()

    def _ahead(self, x: Tensor, gap: Tensor) -> Tensor:
        return x + self.radius * gap / _size(gap).clamp_min(1e-12)


def _size(gap: Tensor) -> Tensor:
    return gap.pow(2).mean().sqrt()
