"""Which arguments of a pipeline's call move a score, and which setting a call would run at.

A calibration makes the calls that a user makes, with other prompts and other noise. Where the user's call has pictures,
it takes the first one; where a service calibrates before anybody called, smooth random colors stand for them.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from shield.calibration.untouched import untouched
from shield.errors import BadRequestError, TraceError
from shield.hooks.calls import hooked, named_arguments
from shield.hooks.intercept import micro_conditioning
from shield.model.autoencoders import latent_channels
from shield.model.families import Family, family_of
from shield.model.prediction import noise_levels
from shield.runtime.preview_checks import picture_size
from shield.runtime.settings import Models, models_of, running_setting
from shield.thresholds import Setting

PICTURES = ("image", "mask_image", "control_image")
NOT_SCORED = (
    "prompt",
    "negative_",
    "generator",
    "latents",
    "num_images_per_prompt",
    "output_type",
    "return_dict",
    "callback",
    "pooled_",
    "kwargs",
)
NOISE = 20260101  # seed of the first noise; the others follow it


class _Known(Exception):
    """Ends a pipeline call before its first prediction. Never leaves this file."""


def call_arguments(request: Mapping[str, Any]) -> dict[str, Any]:
    """Of a call's arguments by name, those that move a score: all but prompts, noise and what becomes of the pictures.

    Of several pictures, one for each prompt, the first is kept.
    """
    kept = {name: value for name, value in request.items() if not name.startswith(NOT_SCORED) and value is not None}
    return kept | {name: _first(kept[name]) for name in PICTURES if name in kept}


def with_pictures(pipe: Any, call: Mapping[str, Any], seed: int = NOISE) -> dict[str, Any]:
    """The call with the pictures that this pipeline needs and the call lacks: smooth random colors, the inner half as
    a mask.
    """
    takes = [name for name in PICTURES if name in inspect.signature(type(pipe).__call__).parameters]
    missing = [name for name in takes if call.get(name) is None]
    if not missing or family_of(pipe).draws_without_pictures:
        return dict(call)
    height, width = _own_size(pipe, call)
    made = {name: _mask(height, width) if name == "mask_image" else _colors(height, width, seed) for name in missing}
    return {**call, **made}


def _own_size(pipe: Any, call: Mapping[str, Any]) -> tuple[int, int]:
    """The size of pictures to make: the call's, the pipeline's own, else its denoiser's."""
    height, width = picture_size(pipe, call.get("height"), call.get("width"))
    if height and width:
        return height, width
    own = getattr(getattr(pipe, family_of(pipe).denoiser).config, "sample_size", None) or 64
    sides = own if isinstance(own, list | tuple) else (own, own)
    return height or sides[0] * pipe.vae_scale_factor, width or sides[1] * pipe.vae_scale_factor


def service_calls(
    pipe: Any,
    sizes: Sequence[tuple[int, int]] | None,
    strengths: Sequence[float] | None,
    steps: int | Sequence[int] | None,
    more: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The calls that a service will make: each size with each strength and number of steps, and `more` in all of them.

    Args:
        pipe: A loaded pipeline; where it takes its pictures' size, pictures of these sizes are made.
        sizes: (height, width) in pixels; None: the pipeline's own.
        strengths: Of image to image; None: the pipeline's own.
        steps: Numbers of steps; None: the pipeline's own.
        more: The calls' other arguments.

    Raises:
        BadRequestError: The pipeline takes none of these, or a value is none.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    unknown = next((name for name in (*more, *(["strength"] if strengths else [])) if name not in takes), None)
    if unknown is not None:
        raise BadRequestError(f"A call of {type(pipe).__name__} takes no {unknown}; leave it out.")
    counts = (steps,) if steps is None or isinstance(steps, int) else tuple(steps)
    calls = []
    for size, strength, count in product(sizes or (None,), strengths or (None,), counts or (None,)):
        chosen = {"strength": strength, "num_inference_steps": count, **_sized(pipe, size, takes)}
        calls.append({**more, **{name: value for name, value in chosen.items() if value is not None}})
    return calls


def _sized(pipe: Any, size: Any, takes: Mapping[str, Any]) -> dict[str, Any]:
    """A size as the pipeline takes it: as numbers, or as that of a picture."""
    if size is None:
        return {}
    is_size = isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    if not is_size:
        raise BadRequestError(f"Sizes are pairs (height, width) of pixels, as in [(1024, 1024)]; {size!r} was given.")
    named = {"height": size[0], "width": size[1]}
    if "height" in takes:
        return named
    return {name: value for name, value in with_pictures(pipe, named).items() if name not in named}


def rows_of(pipe: Any, call: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The call for this many prompts: SD3 takes a picture for each prompt."""
    if family_of(pipe).name != "sd3" or call.get("image") is None:
        return dict(call)
    return {**call, "image": [call["image"]] * count}


def guidance_of(pipe: Any, call: Mapping[str, Any]) -> float:
    """The scale by which the call mixes conditional and unconditional predictions; 1 for none."""
    family = family_of(pipe)
    usual = inspect.signature(type(pipe).__call__).parameters[family.guidance].default
    return family.scale(call.get(family.guidance, usual))


@torch.inference_mode()
def foretold_setting(pipe: Any, call: Mapping[str, Any], horizon: int = 1, models: Models | None = None) -> Setting:
    """The setting that a call would run at, of any family, without a single call of the denoiser.

    Args:
        pipe: A loaded pipeline. It is left as it was.
        call: Arguments as `call_arguments` returns them.
        horizon: How many first timesteps the setting holds.
        models: Names of what moves a score, where they are known already.

    Raises:
        UnsupportedPipelineError, TraceError: The pipeline or its scheduler can't be read.
    """
    seen: dict[str, Any] = {}
    family, denoiser = family_of(pipe), getattr(pipe, family_of(pipe).denoiser)

    def look(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.update(named_arguments(family, args, kwargs))
        raise _Known

    companion = getattr(pipe, family.companion or "", None)
    noise = torch.Generator("cpu").manual_seed(NOISE)
    with untouched(pipe):
        with suppress(_Known), ExitStack() as stack:
            for module in (denoiser, *([] if companion is None else [companion])):
                stack.enter_context(hooked(module, look))
            whole = with_pictures(pipe, call)
            pipe(prompt=["a picture"], generator=[noise], **rows_of(pipe, whole, 1))
        if not seen:
            raise TraceError("The denoiser wasn't seen to run, so the call's setting isn't known.")
        shape = tuple(seen[family.sample].shape[1:])
        if not family.packed:
            shape = (latent_channels(pipe), *shape[1:])  # without an inpainting model's mask and masked picture
        times = _first_times(pipe, seen[family.time], family, horizon)
        levels = [(time, noise_levels(pipe.scheduler, time, place == 0)[0]) for place, time in enumerate(times)]
        micro, _ = micro_conditioning(seen, len(seen[family.sample]) - 1)
        return running_setting(pipe, models or models_of(pipe), shape, levels, guidance_of(pipe, call), micro)


def _first_times(pipe: Any, given: Any, family: Family, horizon: int) -> list[float]:
    """The denoiser's first timestep and those that follow it in the schedule."""
    value = float(given.flatten()[0].item() if isinstance(given, torch.Tensor) else given)
    first = family.scheduler_time(value)
    schedule = [float(time) for time in pipe.scheduler.timesteps]
    start = min(range(len(schedule)), key=lambda place: abs(schedule[place] - first))
    return [first, *schedule[start + 1 : start + horizon]]


def _first(pictures: Any) -> Any:
    if isinstance(pictures, list | tuple):
        return pictures[0]
    return pictures[:1] if getattr(pictures, "ndim", 0) == 4 else pictures


def _colors(height: int, width: int, seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def _mask(height: int, width: int) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 4, height // 4, width - width // 4, height - height // 4))
    return mask
