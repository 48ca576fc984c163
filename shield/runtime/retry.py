"""A second attempt at an image that came out wrong, on the same noise, with a stronger mitigation from the first step.

An image that a later step flagged is drawn alone, from the latents that its row began with. A finished copy, or an
image that nothing helped on its way, is drawn with the whole call once more, because a given picture or a generator
that the batch shares can't be had for one image alone; only the pictures that needed it are taken from the second run.
Either costs as much as the first call did for these images.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shield.hooks.ways_in import gives_picture
from shield.runtime.call import ImageState
from shield.runtime.policy import Policy
from shield.types import Nearest

# Arguments that hold one entry for each prompt where they are lists or tensors.
PER_PROMPT = ("prompt", "negative_prompt", "pooled_prompt", "negative_pooled_prompt")


def worth_retrying(image: ImageState, nearest: Nearest | None, policy: Policy) -> bool:
    """Whether a mitigation is left that hasn't had its chance from the first step on, and the image needs it."""
    if policy.on_flag != "mitigate" or policy.on_copy != "block" or image.spent >= len(policy.mitigations):
        return False
    if image.action == "block":
        return image.tried > 0
    return nearest is not None and nearest.copied


def retried(image: ImageState, row: int | None = None) -> ImageState:
    """The image at the start of another attempt: flagged for what the last one came to. `row`: its place in that."""
    return ImageState(
        image.row if row is None else row,
        image.prompt,
        image.mentions,
        image.reasons,
        tried=image.spent,
        spent=image.spent,
    )


def left_aside(row: int) -> ImageState:
    """An image of the second run that nobody wants."""
    return ImageState(row, None, action="aside")


def joined(first: ImageState, second: ImageState, calls: int) -> ImageState:
    """The second attempt with what the first one saw and cost; `calls` of the denoiser drew it."""
    second.scores = [*first.scores, *second.scores]
    second.extra_calls += first.extra_calls + calls
    second.scored &= first.scored
    second.row = first.row
    return second


def call_alone(
    pipe: Any, request: Mapping[str, Any], row: int, images: int, start: Tensor | None
) -> dict[str, Any] | None:
    """The arguments by which one image of a call is drawn alone from its own initial latents.

    Args:
        pipe: The pipeline.
        request: All of the call's arguments by name.
        row: The image's place in the call.
        images: How many images the call makes.
        start: The latents that the call began with, (images, ...), before they were scaled.

    Returns:
        What differs from the call's own arguments; None where a picture was given, or the pipeline takes no latents.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    if start is None or len(start) != images or gives_picture(request):
        return None
    if not {"latents", "num_images_per_prompt"} <= set(takes):
        return None
    copies = request.get("num_images_per_prompt") or 1
    rows, prompt = images // copies, row // copies
    alone: dict[str, Any] = {
        name: value[prompt : prompt + 1]
        for name, value in request.items()
        if name.startswith(PER_PROMPT) and isinstance(value, list | tuple | Tensor) and len(value) == rows
    }
    generator = request.get("generator")
    if isinstance(generator, list | tuple):
        alone["generator"] = [generator[row]] if len(generator) == images else generator
    latents = start[row : row + 1] / float(getattr(pipe.scheduler, "init_noise_sigma", 1.0))
    return {**alone, "latents": latents, "num_images_per_prompt": 1}


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
    scheduler, restore = pipe.scheduler, kept_noise(generator)
    held = dict(vars(scheduler))
    try:
        yield
    except BaseException:
        vars(scheduler).clear()
        vars(scheduler).update(held)
        restore()
        raise
