"""Cheap pictures of what is being drawn, from the latents between two steps: no denoiser call, no decoding.

Two latents of one trajectory are x = a x0 + s eps and x' = a' x0 + s' eps. A deterministic step (DDIM, flow, Euler)
keeps x0 and eps as the guided prediction has them, so the two say what it is: x0 = (s x' - s' x) / (s a' - s' a); other
schedulers nearly do. From there to color it is one linear map: an autoencoder's channels are nearly linear in the mean
color of the patch that they stand for. The map is fitted once for each model, on a few made-up pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shield.prediction import noise_levels

PICTURES = 24
SIDE = 256


class Preview:
    """Latents (C, H, W) to small pictures, for pipelines with an AutoencoderKL."""

    def __init__(self, pipe: Any) -> None:
        self.map = _fitted(pipe)

    def picture(self, latents: Tensor) -> Image.Image:
        """One picture of (C, H, W) predicted clean latents, SIDE pixels wide."""
        channels = latents.detach().float().cpu().numpy()
        flat = np.concatenate([channels.reshape(len(channels), -1), np.ones((1, channels[0].size))])
        pixels = (flat.T @ self.map).reshape(*channels.shape[1:], 3)
        small = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
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


def _fitted(pipe: Any) -> np.ndarray:
    """(C + 1, 3): the least-squares map from latent channels and a constant to mean color, 0 to 1."""
    vae, cell = pipe.vae, pipe.vae_scale_factor
    rng = np.random.default_rng(0)
    pixels = np.stack([_made_up(rng, 8 * cell) for _ in range(PICTURES)])
    with torch.no_grad():
        given = torch.from_numpy(2 * pixels - 1).permute(0, 3, 1, 2).to(vae.device, vae.dtype)
        latents = vae.encode(given).latent_dist.mean.float().cpu()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = (latents - shift) * vae.config.scaling_factor
    flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).numpy()
    rows = pixels.reshape(PICTURES, 8, cell, 8, cell, 3).mean(axis=(2, 4)).reshape(-1, 3)
    solved, *_ = np.linalg.lstsq(np.column_stack([flat, np.ones(len(flat))]), rows, rcond=None)
    return solved


def _made_up(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3) from 0 to 1: smooth color, from flat to busy."""
    cells = int(rng.integers(1, 7))
    corners = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
    return np.asarray(corners.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
