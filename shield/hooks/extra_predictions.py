"""What the denoiser is asked about a step beside what the pipeline asks: for detectors that need another look.

Every question is one of the current step's reruns with something changed (the noise level, the latents), and is no
step of the picture's own: not a bit of it changes. Each costs extra denoiser calls for every image.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shield.model.conditioning import null_conditioning
from shield.model.prediction import noise_levels

if TYPE_CHECKING:
    from shield.hooks.forward import Forward

SHIFT = 0.25  # root mean square of the shift along the gap; a noise's is 1
SEED = 20260101


def late(pipe: Any, forward: "Forward") -> dict[str, Any]:
    """The same latents and conditioning, asked about at the third-last timestep: what that changes in the step."""
    timestep = float(pipe.scheduler.timesteps[-3:][0])
    signal, noise = noise_levels(pipe.scheduler, timestep)
    cond, uncond = _both(pipe, forward, timestep, None)
    return {"timestep": timestep, "signal": signal, "noise": noise, "noise_cond": cond, "noise_uncond": uncond}


def shifted(pipe: Any, forward: "Forward") -> dict[str, Any] | None:
    """The same step at latents that are moved by SHIFT along the gap; None without an unconditional prediction.

    Along the gap of the predicted noise, whichever way the model writes its predictions.
    """
    if forward.noise_uncond is None:
        return None
    gap = (forward.noise_cond - forward.noise_uncond).float()
    gap = -gap if forward.prediction in ("sample", "edm") else gap
    size = gap.flatten(1).pow(2).mean(1).sqrt().view(-1, *[1] * (gap.ndim - 1))
    moved = (forward.latents.float() + SHIFT * gap / size.clamp_min(1e-12)).to(forward.latents)
    cond, uncond = _both(pipe, forward, None, moved)
    return {"latents": moved, "noise_cond": cond, "noise_uncond": uncond}


def redrawn(forward: "Forward", count: int) -> list[dict[str, Any]]:
    """The same step from `count` other noises, the same ones for every image and every call; no unconditional half."""
    rows, one = range(len(forward.noise_cond)), forward.latents[:1]
    generator, found = torch.Generator().manual_seed(SEED), []
    for _ in range(count):
        noise = torch.randn(one.shape, generator=generator).to(one).expand_as(forward.latents)
        cond = forward.rerun(rows, forward.conditioning, latents=noise)
        found.append({"latents": noise, "noise_cond": cond, "noise_uncond": None})
    return found


def _both(pipe: Any, forward: "Forward", timestep: float | None, latents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Conditional and empty-prompt predictions, two calls."""
    rows = range(len(forward.noise_cond))
    null = null_conditioning(pipe, forward.conditioning.embeds.shape[1]).repeated(len(rows))
    cond, uncond = (forward.rerun(rows, c, timestep, latents) for c in (forward.conditioning, null))
    return cond, uncond
