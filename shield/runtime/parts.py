"""What a pipeline's call runs through, read before and after each callback: a callback may change any of it in place.

Weights, adapters and FreeU are told by the models' names, which are the same in every precision and wherever a model
lies. Everything else that decides what a module does (its children, hooks, attention processors, a `forward` of its
own, its numbers) is told by which objects these are.
"""

from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from shield.model.families import family_of
from shield.runtime.settings import RecognizedModels

NAMED = ("_modules", "_parameters", "_buffers")  # told by the models' names
PLAIN = (bool, int, float, str, type(None))


def parts_of(pipe: Any, recognized: RecognizedModels) -> dict[str, Any]:
    """Part -> what it is now, comparable with ==. A few milliseconds, more where weights have changed."""
    family, vae = family_of(pipe), pipe.vae
    models = recognized.of(pipe, watched=isinstance(vae, nn.Module))
    names = {family.denoiser: models.denoiser, "vae": models.autoencoder}
    parts = {
        role: (names.get(role), _modules_read(module))
        for role in (family.denoiser, family.companion or "", "vae")
        if isinstance(module := getattr(pipe, role, None), nn.Module)
    }
    processors = {name: value for name, value in vars(pipe).items() if name.endswith("_processor")}
    return {
        **parts,
        "text encoders or ControlNet": models.conditioning,
        **{name: (_read(value), getattr(type(value), "postprocess", None)) for name, value in processors.items()},
        "pipeline's own methods": {name: _mark(value) for name, value in vars(pipe).items() if callable(value)},
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The parts that aren't what they were."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _modules_read(module: nn.Module) -> list[tuple[Any, ...]]:
    return [(id(part), type(part), type(part).forward, *_read(part)) for part in module.modules()]


def _read(owner: Any) -> list[Any]:
    """What an object holds beside what its model's name tells."""
    held = [(name, value) for name, value in vars(owner).items() if name not in NAMED]
    marks = [(name, _mark(value)) for name, value in held if value or isinstance(value, PLAIN)]
    processor = vars(owner).get("processor")
    numbers = vars(processor).items() if hasattr(processor, "__dict__") else ()
    return [*marks, *((name, value) for name, value in numbers if isinstance(value, PLAIN))]


def _mark(value: Any) -> Any:
    """A value, where it is a plain one, or which object it is; of a collection, which objects are in it."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, MethodType):
        return id(value.__self__), id(value.__func__)
    if isinstance(value, partial):
        return id(value.func), *map(id, value.args)
    if isinstance(value, dict):
        return id(value), *(item if isinstance(item, PLAIN) else id(item) for item in value.values())
    if isinstance(value, list | tuple):
        return tuple(item if isinstance(item, PLAIN) else id(item) for item in value)
    return id(value)
