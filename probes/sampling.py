"""How a model is usually sampled: the shipped testbed as its manifest says, others as their pipeline's own defaults."""

from __future__ import annotations

import inspect
from typing import Any

from shield.load import SHIPPED


def usual_sampling(model: str, pipe: Any, steps: int | None = None, guidance_scale: float | None = None
                   ) -> tuple[int, float]:
    """Steps and guidance scale: what is given, else the model's own."""
    if model in SHIPPED:
        from probes.testbed.manifest import load_manifest

        own = load_manifest().sampling
        usual = {"num_inference_steps": own["steps"], "guidance_scale": own["guidance_scale"]}
    else:
        parameters = inspect.signature(type(pipe).__call__).parameters
        usual = {name: parameters[name].default for name in ("num_inference_steps", "guidance_scale")}
    return (usual["num_inference_steps"] if steps is None else steps,
            usual["guidance_scale"] if guidance_scale is None else guidance_scale)


def verb_sampling(model: str, steps: int | None, guidance_scale: float | None) -> tuple[int, float]:
    """The same for a probe that has no pipeline yet: what is given, the testbed's own, else 25 steps and guidance 5."""
    if model in SHIPPED:
        return usual_sampling(model, None, steps, guidance_scale)
    return 25 if steps is None else steps, 5.0 if guidance_scale is None else guidance_scale
