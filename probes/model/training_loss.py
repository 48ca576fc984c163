"""The loss that a denoiser was trained with, and its weights at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from probes.errors import UnsupportedError
from probes.model.denoising import predict
from probes.types import Subject
from shield.model.prediction import prediction_type

Levels = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """What a denoiser is trained to do: predict ``target`` of (clean latents, noise, levels) for

        x_t = signal * clean + noise_level * noise,      t uniform in first .. first + num_train_timesteps - 1

    with ``levels`` = (signal, noise level) of a scheduler and timesteps.
    """

    target: Callable[[torch.Tensor, torch.Tensor, Levels], torch.Tensor]
    levels: Callable[[Any, torch.Tensor], Levels]
    first: int = 0


def _variance_preserving(scheduler: Any, time: torch.Tensor) -> Levels:
    """Of the schedule that a model was trained with, whatever solver draws with it."""
    kept = scheduler.alphas_cumprod.to(time.device, torch.float32)[time]
    return kept**0.5, (1 - kept) ** 0.5


def _straight(scheduler: Any, time: torch.Tensor) -> Levels:
    """Rectified flow: the timestep is its noise level."""
    sigma = time.float() / scheduler.config.num_train_timesteps
    return 1 - sigma, sigma


OBJECTIVES = {
    "epsilon": Objective(lambda clean, noise, levels: noise, _variance_preserving),
    "v_prediction": Objective(lambda clean, noise, levels: levels[0] * noise - levels[1] * clean, _variance_preserving),
    "sample": Objective(lambda clean, noise, levels: clean, _variance_preserving),
    "flow": Objective(lambda clean, noise, levels: noise - clean, _straight, first=1),
}


def objective_of(scheduler: Any) -> Objective:
    """What the denoiser under this scheduler was trained for. UnsupportedError for what isn't in OBJECTIVES."""
    kind = prediction_type(scheduler)
    if kind not in OBJECTIVES:
        raise UnsupportedError(f"The search knows {', '.join(OBJECTIVES)} prediction; this scheduler predicts {kind}.")
    return OBJECTIVES[kind]


def drawn_times(scheduler: Any, count: int, draw: torch.Generator) -> torch.Tensor:
    """Timesteps (count,) of the training, uniform."""
    steps = scheduler.config.num_train_timesteps
    return objective_of(scheduler).first + torch.randint(0, steps, (count,), generator=draw)


def last_timestep(scheduler: Any) -> int:
    """The noisiest timestep of the training."""
    return objective_of(scheduler).first + scheduler.config.num_train_timesteps - 1


def noised(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """x_t (B, C, H, W) of the training at timesteps (B,)."""
    signal, level = _shaped(objective_of(scheduler).levels(scheduler, time))
    return signal * clean + level * noise


def training_target(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """What the denoiser should predict for x_t, shape (B, C, H, W)."""
    objective = objective_of(scheduler)
    return objective.target(clean, noise, _shaped(objective.levels(scheduler, time)))


def _shaped(levels: Levels) -> Levels:
    signal, level = (each[:, None, None, None] for each in levels)
    return signal, level


def training_loss(
    subject: Subject, clean: torch.Tensor, embeds: torch.Tensor, draws: Sequence[torch.Generator], count: int
) -> torch.Tensor:
    """Mean squared error (G,), float32, of latents (G, C, H, W) under embeddings (G, T, D).

    Each of the G has ``count`` fresh timesteps (uniform) and noises (normal) from its own generator.
    """
    scheduler, shape = subject.pipe.scheduler, clean.shape[1:]
    times, noises = [], []
    for draw in draws:
        times.append(drawn_times(scheduler, count, draw))
        noises.append(torch.randn(count, *shape, generator=draw))
    time, noise = torch.cat(times).to(clean.device), torch.cat(noises).to(clean.device)
    latents = clean.repeat_interleave(count, dim=0)
    noisy = noised(scheduler, latents, noise, time)
    predicted = predict(subject, noisy, time, embeds.repeat_interleave(count, 0))
    error = (predicted.float() - training_target(scheduler, latents, noise, time)).square()
    return error.reshape(len(clean), -1).mean(dim=1)


@contextmanager
def frozen(module: torch.nn.Module, checkpointing: bool = False) -> Iterator[None]:
    """Inside the block the module is in evaluation mode and none of its parameters asks for a gradient.

    ``checkpointing``: a diffusers denoiser computes its activations again on the way back instead of holding them.
    """
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    modes = {part: part.training for part in module.modules()}
    switched = checkpointing and not module.is_gradient_checkpointing
    try:
        module.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        if switched:
            module.enable_gradient_checkpointing()  # type: ignore[operator]
        yield
    finally:
        if switched:
            module.disable_gradient_checkpointing()  # type: ignore[operator]
        for parameter in wanted:
            parameter.requires_grad_(True)
        for part, training in modes.items():
            part.training = training
