"""A checkpoint as the verbs take it. Whether it is the testbed, whose training is known, is resolved here alone."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probes.errors import AuditError
from probes.model.loading import load
from probes.testbed.manifest import Manifest, load_manifest
from probes.types import Subject
from shield.errors import WeightsError
from shield.model.loading import SHIPPED, is_hub_id, split_name

TWINS = {"testbed": "testbed-clean"}
USUAL = {"num_inference_steps": 25, "guidance_scale": 5.0}  # of a model that can't be found, which loading it says


@dataclass(frozen=True)
class Checkpoint:
    """A model by its name, and what is known about its training.

    ``truth`` is the testbed's manifest for either of its models, None for every other one: a folder that is called
    like ours isn't ours. ``twin`` is a model that never saw the works. ``pipe`` is the model, where it is loaded.
    """

    name: str
    truth: Manifest | None = None
    twin: str | None = None
    pipe: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, pipe: Any = None) -> Checkpoint:
        """Resolve a name. WeightsError for the testbed's where its manifest can't be read."""
        return cls(name, load_manifest() if name in SHIPPED else None, TWINS.get(name), pipe)

    def known(self, prompts: Path | None) -> Manifest | None:
        """The truth, for a verb that needs it or prompts. AuditError with neither."""
        if self.truth is None and prompts is None:
            raise AuditError(f"Nothing is known about what {self.name} was trained on: give a prompt file.")
        return self.truth

    def loaded(self, device: str = "auto", dtype: str | None = None) -> Checkpoint:
        """The same with its pipeline. Raises what loading raises."""
        return self if self.pipe is not None else replace(self, pipe=load(self.name, device=device, dtype=dtype))

    def subject(self, device: str = "auto") -> Subject:
        """The model itself, loaded if it isn't yet. Raises what loading raises."""
        return Subject(self.loaded(device).pipe, self.name)

    def sampling(self, steps: int | None = None, guidance_scale: float | None = None) -> tuple[int, float]:
        """Steps and guidance scale: what is given, else the manifest's, else the pipeline's own defaults.

        Without a pipeline those of the class that the checkpoint names, so that thresholds made with the defaults
        hold for it.
        """
        if steps is not None and guidance_scale is not None:
            return steps, guidance_scale
        usual = self._usual()
        return (
            usual["num_inference_steps"] if steps is None else steps,
            usual["guidance_scale"] if guidance_scale is None else guidance_scale,
        )

    def _usual(self) -> dict[str, Any]:
        if self.truth is not None:
            own = self.truth.sampling
            return {"num_inference_steps": own["steps"], "guidance_scale": own["guidance_scale"]}
        kind = _pipeline_class(self.name) if self.pipe is None else type(self.pipe)
        if kind is None:
            return USUAL
        parameters = inspect.signature(kind.__call__).parameters
        return {name: parameters[name].default for name in USUAL}


def _pipeline_class(model: str) -> Any:
    """The class that a model's configuration names, read without its weights; None where there is none."""
    import diffusers

    from shield.model.single_file import index_of

    name = split_name(model)[0]
    place = Path(name).expanduser()
    if not place.exists() and not is_hub_id(name):
        return None
    try:
        index = index_of(place)[1] if place.is_file() else diffusers.DiffusionPipeline.load_config(str(place))
    except (OSError, ValueError, WeightsError):
        return None
    return getattr(diffusers, str(index.get("_class_name")), None)
