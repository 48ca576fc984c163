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
from shield.model.families import FAMILIES
from shield.model.loading import SHIPPED, check_name, is_hub_id, split_name

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

    def check_twin(self, twin: str | None) -> None:
        """Refuse a twin that is no model or is of another family, by what both configurations say; loads no weights.

        Raises:
            CheckpointError: There is no such model.
            AuditError: Another family's model can't show what this one would draw without the works.
        """
        if twin is None or twin == self.twin:
            return
        check_name(twin)
        kind, other = self._class(), _pipeline_class(twin)
        if kind is not None and other is not None and _family(kind) != _family(other):
            raise AuditError(
                f"A twin is the same kind of model, trained without the works; {self.name} is a {kind.__name__} and "
                f"the twin {twin} a {other.__name__}. Name another --twin, or leave it out."
            )

    def _class(self) -> Any:
        return _pipeline_class(self.name) if self.pipe is None else type(self.pipe)

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
        kind = self._class()
        if kind is None:
            return USUAL
        parameters = inspect.signature(kind.__call__).parameters
        return {name: parameters[name].default for name in USUAL}


def _family(kind: type) -> str:
    """The family of a pipeline's class; of one that isn't known, the class itself."""
    return next((family.name for family in FAMILIES if kind.__name__ in family.pipelines), kind.__name__)


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
