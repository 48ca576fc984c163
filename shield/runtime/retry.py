"""A second attempt at an image that came out wrong, on the same noise, with a stronger mitigation from the first step.

The whole call is run again, because one image's noise can't be had without the others' where a batch shares a
generator; only the pictures that needed it are taken from the second run. It costs as much as the first, and happens
when a finished picture copies a protected one, or when nothing helped an image that was flagged on its way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from shield.runtime.controller import ImageState
from shield.runtime.policy import Policy
from shield.types import Nearest


def worth_retrying(image: ImageState, nearest: Nearest | None, policy: Policy) -> bool:
    """Whether a mitigation is left that hasn't had its chance from the first step on, and the image needs it."""
    if policy.on_flag != "mitigate" or policy.on_copy != "block" or image.spent >= len(policy.mitigations):
        return False
    if image.action == "block":
        return image.tried > 0
    return nearest is not None and nearest.copied


def retried(image: ImageState) -> ImageState:
    """The image at the start of another attempt: flagged for what the last one came to."""
    return ImageState(image.row, image.prompt, image.mentions, image.reasons, tried=image.spent, spent=image.spent)


def left_aside(row: int) -> ImageState:
    """An image of the second run that nobody wants."""
    return ImageState(row, None, action="aside")


def joined(first: ImageState, second: ImageState, calls: int) -> ImageState:
    """The second attempt with what the first one saw and cost; `calls` of the denoiser drew it."""
    second.scores = [*first.scores, *second.scores]
    second.extra_calls += first.extra_calls + calls
    second.scored &= first.scored
    return second


def kept_noise(generator: Any) -> Callable[[], None]:
    """A function that sets the caller's generators and torch's own back to where they are now."""
    generators = generator if isinstance(generator, list | tuple) else [generator]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)
        for kept, state in states:
            kept.set_state(state)

    return restore


@contextmanager
def restored_on_error(pipe: Any, generator: Any) -> Iterator[None]:
    """After an exception the scheduler's state, the caller's generators and torch's own are as before the block."""
    scheduler, restore = dict(vars(pipe.scheduler)), kept_noise(generator)
    try:
        yield
    except BaseException:
        vars(pipe.scheduler).clear()
        vars(pipe.scheduler).update(scheduler)
        restore()
        raise
