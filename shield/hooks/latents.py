"""Latents that a picture goes on from instead of its own, put in where the scheduler takes its step.

A hook on the denoiser sees copies of the latents, so it can ask about others but not exchange them. Every pipeline
hands its latents to `scheduler.step`, and takes from there what it goes on with: for the length of a call, that is
where another picture's latents can be put in, whatever the scheduler does with them.
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from shield.errors import TraceError
from shield.hooks.steps import replaced

Moves = MutableMapping[int, tuple[Tensor, Tensor]]
"""Row -> the latents that the denoiser was given for it and those that it should have been given."""


@contextmanager
def movable(scheduler: Any, moves: Moves) -> Iterator[None]:
    """Within the block, the scheduler's next step starts from what `moves` says, which is then emptied.

    The other rows' latents are the pipeline's own, to the bit. Raises TraceError for latents of another shape.
    """
    step = scheduler.step

    @wraps(step)  # pipelines read its signature to know what it takes
    def moved(model_output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        return step(model_output, timestep, _with_moves(sample, moves), *args, **kwargs)

    with replaced(scheduler, "step", moved):
        yield


@contextmanager
def rescaled(scheduler: Any, factors: Callable[[], Tensor | None]) -> Iterator[None]:
    """Within the block, what the scheduler's steps are given for a prediction is multiplied by `factors()`, if any."""
    step = scheduler.step

    @wraps(step)
    def scaled(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        factor = factors()
        return step(model_output if factor is None else model_output * factor.to(model_output), *args, **kwargs)

    with replaced(scheduler, "step", scaled):
        yield


def _with_moves(sample: Tensor, moves: Moves) -> Tensor:
    if not moves:
        return sample
    changed = sample.clone()
    for row, (given, wanted) in moves.items():
        if wanted.shape != sample[row].shape:
            raise TraceError(f"Latents of {tuple(wanted.shape)} can't stand for {tuple(sample[row].shape)}.")
        # Some schedulers scale what the denoiser is given.
        scale = (sample[row].float() * given.float()).sum() / given.float().pow(2).sum().clamp_min(1e-12)
        changed[row] = (scale * wanted.float()).to(sample)
    moves.clear()
    return changed


def resized(latents: Tensor, like: Tensor) -> Tensor:
    """`latents` (1, ...) at the Euclidean norm of `like`."""
    return latents * (torch.linalg.vector_norm(like) / torch.linalg.vector_norm(latents).clamp_min(1e-12))
