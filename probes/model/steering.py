"""Take part in a pipeline's denoising where its scheduler takes its step: begin late, hold a part, add noise.

Every pipeline hands its latents to ``scheduler.step`` and goes on with what comes back. So what is put in there works
on every family, in the form in which the family's latents are: (B, C, H, W) or packed (B, tokens, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from probes.errors import UnsupportedError
from shield.hooks.steps import replaced

NOISY = ("LCM", "TCD", "DDPM", "Ancestral", "SDE", "SASolver")

Step = Callable[..., Any]


@contextmanager
def begun_at(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, share: float) -> Iterator[None]:
    """Within the block a call draws the last ``share`` of its steps, from ``clean`` noised to where they begin.

    Costs one denoiser evaluation more than these steps have: that of the pipeline's own first step, which goes nowhere.
    A share of 1 is the whole call, from its own noise.
    """
    skipped = 0
    whole: dict[str, Any] = {}
    set_timesteps = scheduler.set_timesteps

    @wraps(set_timesteps)
    def shortened(*args: Any, **kwargs: Any) -> None:
        nonlocal skipped
        set_timesteps(*args, **kwargs)
        order, times = scheduler.order, scheduler.timesteps
        steps = -(-len(times) // order)
        skipped = order * (steps - max(1, round(share * steps)))
        whole.update(
            {name: value for name, value in vars(scheduler).items() if name.startswith(("timesteps", "sigmas"))}
        )
        if skipped:
            scheduler.timesteps = torch.cat([times[:1], times[skipped:]])

    def begin(
        step: Step, model_output: torch.Tensor, time: Any, sample: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        nonlocal skipped
        if not skipped:
            return step(model_output, time, sample, *args, **kwargs)
        scheduler.timesteps = scheduler.timesteps[1:]
        for name, value in whole.items():
            if name.startswith("sigmas") and isinstance(value, torch.Tensor):
                setattr(scheduler, name, value[skipped:])
        skipped = 0
        started = noised(scheduler, clean.to(sample), noise.to(sample), scheduler.timesteps[0])
        return started, started

    try:
        with replaced(scheduler, "set_timesteps", shortened), _stepped(scheduler, begin):
            yield
    finally:
        vars(scheduler).update(whole)


@contextmanager
def held(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, open_part: torch.Tensor) -> Iterator[None]:
    """Within the block only ``open_part`` (true where it is, in the latents' form) is drawn; what is around it is
    ``clean``, noised as far as each step has come.
    """
    taken = 0

    def hold(step: Step, model_output: torch.Tensor, time: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        after, *others = step(model_output, time, sample, *args, **kwargs)
        taken += 1
        around = clean.to(after)
        if taken < len(scheduler.timesteps):
            around = noised(scheduler, around, noise.to(after), scheduler.timesteps[taken])
        return torch.where(open_part.to(after.device), after, around), *others

    with _stepped(scheduler, hold):
        yield


@contextmanager
def stirred(scheduler: Any, draws: Sequence[torch.Generator], amount: float) -> Iterator[None]:
    """Within the block each step exchanges noise for fresh noise, as DDIM does at eta 1 (Song et al., ICLR 2021).

    With x = A x0 + S eps before a step and A' x0 + S' eps after it, the share r^2 = 1 - (A S' / (A' S))^2 of the
    noise's variance is fresh. ``amount`` is what the fresh noise is multiplied by: 0 leaves the solver as it is, 1 is
    DDPM, more than 1 more than the model was trained for. UnsupportedError for a solver that adds noise of its own, or
    that takes two evaluations a step.
    """
    name = type(scheduler).__name__
    if amount and (scheduler.order > 1 or any(part in name for part in NOISY)):
        raise UnsupportedError(
            f"Noise is added to a solver that adds none and takes one evaluation a step; {name} is another kind. Take "
            f"level 0, or set the model's scheduler to DDIM, Euler or DPM-Solver++."
        )
    taken = 0

    def stir(step: Step, model_output: torch.Tensor, time: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        signal, level = levels(scheduler, scheduler.timesteps[taken], sample.device)
        after, *others = step(model_output, time, sample, *args, **kwargs)
        taken += 1
        if not amount or taken == len(scheduler.timesteps):
            return after, *others
        signal_after, level_after = levels(scheduler, scheduler.timesteps[taken], sample.device)
        fresh = min(1.0, max(0.0, 1 - (signal * level_after / (signal_after * level)) ** 2))
        old = (signal_after * sample.float() - signal * after.float()) / (signal_after * level - signal * level_after)
        new = torch.stack([torch.randn(after.shape[1:], generator=draw) for draw in draws]).to(old)
        kept = (math.sqrt(1 - min(1.0, amount) ** 2 * fresh) - 1) * old
        return (after.float() + level_after * (kept + amount * math.sqrt(fresh) * new)).to(after), *others

    with _stepped(scheduler, stir):
        yield


def noised(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """``clean`` with as much noise as the scheduler's latents have at ``time``, in the scheduler's own scale."""
    times = time.reshape(1).to(clean.device).expand(len(clean))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, times, noise)
    return scheduler.add_noise(clean, noise, times)


def levels(scheduler: Any, time: torch.Tensor, device: torch.device) -> tuple[float, float]:
    """(A, S) of the scheduler's latents A x0 + S eps at ``time``."""
    one, zero = torch.ones(1, 1, 1, 1, device=device), torch.zeros(1, 1, 1, 1, device=device)
    return float(noised(scheduler, one, zero, time)), float(noised(scheduler, zero, one, time))


@contextmanager
def _stepped(scheduler: Any, edit: Callable[..., Any]) -> Iterator[None]:
    step = scheduler.step

    @wraps(step)  # pipelines read its signature to know what it takes
    def edited(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return edit(step, model_output, timestep, sample, *args, **kwargs)

    with replaced(scheduler, "step", edited):
        yield
