"""What is being drawn, from the latents between two steps: no denoiser call, no hook.

Two latents of one trajectory are x = a x0 + s eps and x' = a' x0 + s' eps. A deterministic step (DDIM, flow, Euler)
keeps x0 and eps as the guided prediction has them, so the two say what it is: x0 = (s x' - s' x) / (s a' - s' a); other
schedulers nearly do. shield/hooks/preview.py turns that into color. Unlike there, it is the guided prediction that
shows, after whatever the shield did to it: a hook of ours would also see the shield's own extra calls.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from shield.hooks.preview import Preview
from shield.model.prediction import noise_levels

SIDE = 256


def picture_of(preview: Preview, latents: Tensor) -> Image.Image:
    """The first of (B, C, H, W) clean latents, SIDE pixels wide."""
    small = preview.pictures(latents[:1])[0]
    return small.resize((SIDE, SIDE * small.height // small.width), Image.Resampling.BICUBIC)


def predicted_clean(scheduler: Any, step: int, before: Tensor, after: Tensor) -> Tensor:
    """The clean latent that step `step` (from 0) predicted, from the latents before and after it."""
    timesteps = [float(t) for t in scheduler.timesteps]
    a, s = noise_levels(scheduler, timesteps[step])
    last = step + 1 >= len(timesteps)
    a_next, s_next = (1.0, 0.0) if last else noise_levels(scheduler, timesteps[step + 1])
    # Schedulers in sigma space keep x0 + sigma * eps; noise_levels speaks of what the denoiser is given.
    if float(getattr(scheduler, "init_noise_sigma", 1.0)) > 2.0:
        before, after = a * before, a_next * after
    return (s * after - s_next * before) / (s * a_next - s_next * a)
