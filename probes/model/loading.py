"""A model for a verb: verbs have prompts, and ask a model for what it makes of those alone."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from probes.errors import UnsupportedError
from shield.model.families import family_of
from shield.model.loading import load as load_any


def load(name: str | Path, device: str = "auto", dtype: Any = None) -> Any:
    """What shield.load.load gives, if it draws from prompts alone.

    UnsupportedError for inpainting, image-to-image and ControlNet checkpoints; UnsupportedPipelineError for a class
    that the shield doesn't know; otherwise as shield.load.load.
    """
    pipe = load_any(name, device, dtype)
    family_of(pipe)
    if {"image", "control_image"} & signature(type(pipe).__call__).parameters.keys():
        raise UnsupportedError(
            f"{name} is a {type(pipe).__name__}, which draws from a picture, and here there are "
            "prompts alone: give a text-to-image checkpoint, or wrap this one in a Shield and call "
            "it with its picture."
        )
    return pipe
