"""The whole command that makes what a call lacks, to be copied to a shell: model, size, steps, guidance, dtype."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shield.hooks.intercept import denoiser_of
from shield.model.loading import SHIPPED
from shield.runtime.preview_checks import picture_size


def command_line(verb: str, **options: Any) -> str:
    """The verb with its options; those that are None are left out, and an underscore is written as a hyphen."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return " ".join([verb, *(f"{name} {shlex.quote(str(value))}" for name, value in given)])


def calibrate_command(
    pipe: Any, detectors: Iterable[str], request: Mapping[str, Any] | None = None, model: str | None = None
) -> str:
    """`calibrate` with all that a threshold for this call depends on.

    Args:
        pipe: The pipeline of the call.
        detectors: Names of what needs a threshold.
        request: The call's arguments by name, as far as they are known.
        model: What the pipeline was loaded by; by default what it says itself.
    """
    request = request or {}
    height, width = picture_size(pipe, request.get("height"), request.get("width"))
    is_picture = request.get("image") is not None and request.get("strength") is not None
    return command_line(
        "calibrate",
        model=model or model_name(pipe),
        detectors=",".join(detectors),
        sizes=f"{height}x{width}",
        **_sampled(request, "steps"),
        strength=request.get("strength") if is_picture else None,
        image="PICTURE" if is_picture else None,
        dtype=str(denoiser_of(pipe).dtype).removeprefix("torch."),
    )


def calibrate_watch_command(pipe: Any, shares: Iterable[float], request: Mapping[str, Any] | None = None) -> str:
    """`calibrate-watch` at these shares of the schedule of this call."""
    steps = ",".join(f"{share:g}" for share in shares)
    return command_line("calibrate-watch", model=model_name(pipe), steps=steps, **_sampled(request or {}, "schedule"))


def model_name(pipe: Any) -> str:
    """What a pipeline was loaded by; YOUR_MODEL where it doesn't say."""
    name = str(getattr(pipe, "name_or_path", None) or "YOUR_MODEL")
    ours = (short for short, place in SHIPPED.items() if Path(name).parts[-2:] == Path(place).parts)
    return next(ours, name)


def _sampled(request: Mapping[str, Any], steps: str) -> dict[str, Any]:
    scale = request.get("guidance_scale")
    return {
        steps: request.get("num_inference_steps"),
        "guidance": f"{scale:g}" if isinstance(scale, int | float) else None,
    }
