"""Published first-step and trajectory scores, written straightforwardly: one prompt at a time, nothing shared.

Each follows its paper's procedure on a pipeline with a UNet: Wen et al., ICLR 2024 (arXiv 2407.21720), the norm of the
gap averaged over a whole generation or at its first step; Asthana et al., ICLR 2026 (arXiv 2601.20642), the gap's norm
at the first step and its cosine with the unconditional prediction at a late one.
"""

from __future__ import annotations

from typing import Any

import torch

GUIDANCE = 7.5
PUBLISHED_STEPS = 50


@torch.no_grad()
def wen(pipe: Any, prompt: str, seed: int, read: int = PUBLISHED_STEPS, schedule: int = PUBLISHED_STEPS) -> float:
    """Mean over the first ``read`` of ``schedule`` steps of ||cond - uncond||: two denoiser evaluations a step."""
    latents, embeds = _begun(pipe, prompt, seed, schedule)
    norms = []
    for timestep in pipe.scheduler.timesteps[:read]:
        cond, uncond = _both(pipe, latents, timestep, embeds)
        norms.append(float((cond - uncond).norm()))
        guided = uncond + GUIDANCE * (cond - uncond)
        latents = pipe.scheduler.step(guided, timestep, latents).prev_sample
    return sum(norms) / len(norms)


@torch.no_grad()
def anisotropy(pipe: Any, prompt: str, seed: int, schedule: int = PUBLISHED_STEPS) -> float:
    """The gap's norm at the first step and its cosine with the unconditional prediction near the last: four
    evaluations.
    """
    latents, embeds = _begun(pipe, prompt, seed, schedule)
    cond, uncond = _both(pipe, latents, pipe.scheduler.timesteps[0], embeds)
    size = float((cond - uncond).norm())
    cond, uncond = _both(pipe, latents, pipe.scheduler.timesteps[-3], embeds)
    return size + float(torch.cosine_similarity((cond - uncond).flatten(), uncond.flatten(), dim=0))


def _begun(pipe: Any, prompt: str, seed: int, schedule: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial latents (1, C, H, W) and the embeddings of the empty prompt and of this one, (2, T, D)."""
    pipe.scheduler.set_timesteps(schedule, device=pipe.device)
    cond, uncond = pipe.encode_prompt(prompt, pipe.device, 1, True)
    side = pipe.unet.config.sample_size
    noise = torch.randn(1, pipe.unet.config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
    latents = noise.to(pipe.device, cond.dtype) * pipe.scheduler.init_noise_sigma
    return latents, torch.cat([uncond, cond])


def _both(pipe: Any, latents: torch.Tensor, timestep: Any, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    twice = pipe.scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
    uncond, cond = pipe.unet(twice, timestep, encoder_hidden_states=embeds).sample.chunk(2)
    return cond, uncond
