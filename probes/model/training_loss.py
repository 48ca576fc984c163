"""The loss that a denoiser was trained with, and its weights at rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from probes.errors import UnsupportedError
from probes.types import Subject
from shield.model.prediction import prediction_type


def training_loss(
    subject: Subject, clean: torch.Tensor, embeds: torch.Tensor, draws: Sequence[torch.Generator], count: int
) -> torch.Tensor:
    """Mean squared error (G,), float32, of latents (G, C, H, W) under embeddings (G, T, D).

    Each of the G has ``count`` fresh timesteps (uniform) and noises (normal) from its own generator.
    """
    scheduler, shape = subject.pipe.scheduler, clean.shape[1:]
    times, noises = [], []
    for draw in draws:
        times.append(torch.randint(0, scheduler.config.num_train_timesteps, (count,), generator=draw))
        noises.append(torch.randn(count, *shape, generator=draw))
    time, noise = torch.cat(times).to(clean.device), torch.cat(noises).to(clean.device)
    latents = clean.repeat_interleave(count, dim=0)
    noisy = scheduler.add_noise(latents, noise, time).to(subject.dtype)
    predicted = subject.denoiser(
        noisy, time, return_dict=False, encoder_hidden_states=embeds.repeat_interleave(count, 0).to(subject.dtype)
    )[0]
    error = (predicted.float() - training_target(scheduler, latents, noise, time)).square()
    return error.reshape(len(clean), -1).mean(dim=1)


def training_target(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """What the denoiser should predict for x_t, shape (B, C, H, W). UnsupportedError for flow matching."""
    kind = prediction_type(scheduler)
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, times)
    if kind == "sample":
        return latents
    raise UnsupportedError(f"The search knows epsilon, v and sample prediction; this scheduler predicts {kind}.")


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Inside the block the module is in evaluation mode and none of its parameters asks for a gradient."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for part, training in modes.items():
            part.training = training
