"""A model for a verb: verbs have prompts, and ask a model for what it makes of those alone."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from probes.errors import UnsupportedError
from probes.model.truncated import watch
from probes.types import Subject
from shield.errors import WeightsError
from shield.model.assets import weights_dir
from shield.model.families import family_of
from shield.model.loading import SHIPPED
from shield.model.loading import load as load_any


def load(name: str | Path, device: str = "auto", dtype: Any = None) -> Any:
    """What shield.load.load gives, if it draws from prompts alone.

    UnsupportedError for inpainting, image-to-image and ControlNet checkpoints; UnsupportedPipelineError for a class
    that the shield doesn't know; otherwise as shield.load.load.
    """
    pipe = load_any(name, device, dtype)
    watch()
    return _checked(pipe, name)


def subject_of(model: Any, device: str = "auto") -> Subject:
    """A model under its name: loaded, where a name is given; a pipeline as it is, on the device where it is.

    A pipeline goes by what it was loaded from: "testbed", "testbed-clean", a folder or a hub id, else by its class.
    Raises what `load` raises.
    """
    if isinstance(model, Subject):
        return model
    if isinstance(model, str | Path):
        return Subject(load(model, device), str(model))
    name = name_of(model)
    return Subject(_checked(model, name), name)


def name_of(pipe: Any) -> str:
    """What a pipeline was loaded from, or its class."""
    source = str(getattr(pipe, "name_or_path", None) or type(pipe).__name__)
    try:
        return next((name for name, place in SHIPPED.items() if source == str(weights_dir() / place)), source)
    except WeightsError:
        return source


def _checked(pipe: Any, name: str | Path) -> Any:
    family_of(pipe)
    if {"image", "control_image"} & signature(type(pipe).__call__).parameters.keys():
        raise UnsupportedError(
            f"{name} is a {type(pipe).__name__}, which draws from a picture, and here there are "
            "prompts alone: give a text-to-image checkpoint, or wrap this one in a Shield and call "
            "it with its picture."
        )
    return pipe
