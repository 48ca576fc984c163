"""The whole command that makes what a call lacks, to be copied to a shell: model, size, steps, guidance, dtype."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shield.hooks.intercept import denoiser_of
from shield.model.families import family_of
from shield.model.loading import SHIPPED
from shield.runtime.preview_checks import picture_size
from shield.runtime.settings import dtype_of
from shield.thresholds import OWN_CALL


def command_line(verb: str, **options: Any) -> str:
    """The verb with its options; those that are None are left out, and an underscore is written as a hyphen."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return " ".join([verb, *(f"{name} {shlex.quote(str(value))}" for name, value in given)])


def calibrate_command(
    pipe: Any, detectors: Iterable[str], request: Mapping[str, Any] | None = None, model: str | None = None
) -> str:
    """`calibrate` with all that a threshold for this call depends on.

    A pipeline with parts that no name brings along (a ControlNet, an IP-Adapter, a LoRA loaded since) is calibrated by
    the Shield itself: `safe.calibrate(...)`.

    Args:
        pipe: The pipeline of the call.
        detectors: Names of what needs a threshold.
        request: The call's arguments by name, as far as they are known.
        model: What the pipeline was loaded by; by default what it says itself.
    """
    request = request or {}
    size = _size(pipe, request)
    is_picture = request.get("image") is not None and request.get("strength") is not None
    if _has_more_than_its_name(pipe):
        strength = {"strengths": [request["strength"]]} if is_picture else {}
        scale = {name: request[name] for name in ("guidance_scale",) if request.get(name) is not None}
        given = {
            "sizes": None if size is None else [size],
            **strength,
            "steps": request.get("num_inference_steps"),
            **scale,
        }
        return f"{OWN_CALL}{', '.join(f'{name}={value!r}' for name, value in given.items() if value is not None)})"
    return command_line(
        "calibrate",
        model=model or model_name(pipe),
        detectors=",".join(detectors),
        sizes=None if size is None else f"{size[0]}x{size[1]}",
        **_sampled(request),
        strength=request.get("strength") if is_picture else None,
        image="PICTURE" if is_picture else None,
        dtype=dtype_of(denoiser_of(pipe)),
    )


def calibrate_watch_command(pipe: Any, shares: Iterable[float], request: Mapping[str, Any] | None = None) -> str:
    """`calibrate-watch` at these shares of the schedule of this call; the gallery's folder is the user's to name."""
    model, points = model_name(pipe), ",".join(f"{share:g}" for share in shares)
    gallery = None if model in SHIPPED else "GALLERY"
    return command_line("calibrate-watch", model=model, points=points, gallery=gallery, **_sampled(request or {}))


def _size(pipe: Any, request: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the call's pictures; None where they are a given picture's, and none is known."""
    height, width = picture_size(pipe, request.get("height"), request.get("width"))
    if height and width:
        return height, width
    pictures = request.get("image")
    first = pictures[0] if isinstance(pictures, list | tuple) and pictures else pictures
    if isinstance(first, Image.Image):
        return first.height, first.width
    return (first.shape[-2], first.shape[-1]) if isinstance(first, torch.Tensor) and first.ndim > 1 else None


def _has_more_than_its_name(pipe: Any) -> bool:
    """Whether parts act that loading the checkpoint by its name wouldn't bring."""
    family, denoiser = family_of(pipe), denoiser_of(pipe)
    adapted = any(getattr(part, "peft_config", None) for part in (denoiser, getattr(pipe, "text_encoder", None)))
    pictures = getattr(denoiser, "encoder_hid_proj", None) is not None
    return adapted or pictures or getattr(pipe, family.companion or "", None) is not None


def model_name(pipe: Any) -> str:
    """What a pipeline was loaded by; YOUR_MODEL where it doesn't say."""
    name = str(getattr(pipe, "name_or_path", None) or "YOUR_MODEL")
    ours = (short for short, place in SHIPPED.items() if Path(name).parts[-2:] == Path(place).parts)
    return next(ours, name)


def _sampled(request: Mapping[str, Any]) -> dict[str, Any]:
    scale = request.get("guidance_scale")
    return {
        "steps": request.get("num_inference_steps"),
        "guidance": f"{scale:g}" if isinstance(scale, int | float) else None,
    }
