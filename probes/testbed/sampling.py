"""How a model is usually sampled: the shipped testbed as its manifest says, others as their pipeline's own defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from shield.errors import WeightsError
from shield.model.loading import SHIPPED, split_name


def usual_sampling(
    model: str, pipe: Any, steps: int | None = None, guidance_scale: float | None = None
) -> tuple[int, float]:
    """Steps and guidance scale: what is given, else the model's own."""
    return _usual(model, type(pipe), steps, guidance_scale)


def verb_sampling(model: str, steps: int | None, guidance_scale: float | None) -> tuple[int, float]:
    """The same for a probe that has no pipeline yet, so that thresholds made with the defaults hold for it.

    Of a model that can't be found, which loading it says, 25 steps and guidance 5.
    """
    kind = None if model in SHIPPED or None not in (steps, guidance_scale) else _pipeline_class(model)
    if kind is None and model not in SHIPPED:
        return 25 if steps is None else steps, 5.0 if guidance_scale is None else guidance_scale
    return _usual(model, kind, steps, guidance_scale)


def _usual(model: str, kind: Any, steps: int | None, guidance_scale: float | None) -> tuple[int, float]:
    if model in SHIPPED:
        from probes.testbed.manifest import load_manifest

        own = load_manifest().sampling
        usual = {"num_inference_steps": own["steps"], "guidance_scale": own["guidance_scale"]}
    else:
        parameters = inspect.signature(kind.__call__).parameters
        usual = {name: parameters[name].default for name in ("num_inference_steps", "guidance_scale")}
    return (
        usual["num_inference_steps"] if steps is None else steps,
        usual["guidance_scale"] if guidance_scale is None else guidance_scale,
    )


def _pipeline_class(model: str) -> Any:
    """The class that a model's configuration names, read without its weights; None where there is none."""
    import diffusers

    from shield.model.single_file import index_of

    place = Path(split_name(model)[0]).expanduser()
    try:
        index = index_of(place)[1] if place.is_file() else diffusers.DiffusionPipeline.load_config(str(place))
    except (OSError, ValueError, WeightsError):
        return None
    return getattr(diffusers, str(index.get("_class_name")), None)
