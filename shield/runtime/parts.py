"""What a pipeline's call runs through, compared after each callback: a callback may change any of it in place.

Weights, adapters and FreeU are told by the models' names, which are the same in every precision and wherever a model
lies. Everything else that decides what a module does (its children, hooks, attention processors, a `forward` of its
own, its numbers) is told by which objects these are.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from shield.model.families import family_of
from shield.runtime.settings import RecognizedModels

NAMED = ("_parameters", "_buffers")  # told by the models' names
SCRATCH = ("_feat_map", "_conv_idx", "_conv_num")  # what a video's autoencoder keeps of a decoding
PLAIN = (bool, int, float, str, type(None))


class Parts:
    """The parts of one pipeline as they are when this is made, and as they were when it was asked last."""

    def __init__(self, pipe: Any, recognized: RecognizedModels) -> None:
        self.pipe, self._recognized = pipe, recognized
        self._read_anew()

    def _read_anew(self) -> None:
        family = family_of(self.pipe)
        held = {role: getattr(self.pipe, role, None) for role in (family.denoiser, family.companion or "", "vae")}
        self._modules = {role: _Objects(one.modules()) for role, one in held.items() if isinstance(one, nn.Module)}
        others = {name: value for name, value in vars(self.pipe).items() if name.endswith("_processor")}
        self._others = {name: _Objects([value]) for name, value in others.items()}
        self._state = self._now()

    def changed(self) -> list[str]:
        """The parts that aren't what they were; a few milliseconds, more where weights have changed."""
        now, before = self._now(), self._state
        parts = [part for part in now if not _is_same(before[part], now[part])]
        if parts:
            self._read_anew()
        return parts

    def _now(self) -> dict[str, list[Any]]:
        pipe, denoiser = self.pipe, family_of(self.pipe).denoiser
        names = self._recognized.names(pipe, watched=isinstance(pipe.vae, nn.Module))
        own = dict(zip((denoiser, "text encoders or ControlNet", "vae"), names, strict=True))
        now = {part: [name, getattr(pipe, part, None)] for part, name in own.items()}
        for part, objects in {**self._modules, **self._others}.items():
            now[part] = [*now.get(part, ()), getattr(pipe, part), *objects.held()]
        methods = [value for value in vars(pipe).values() if callable(value) and not isinstance(value, nn.Module)]
        return {**now, "pipeline's methods": methods}


class _Objects:
    """What some objects hold, and what their dictionaries (of children and hooks), lists and processors hold."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self.objects = list(objects)
        self.classes = {type(one) for one in self.objects}
        self.vars = [vars(one) for one in self.objects]
        items = [item for some in self.vars for item in some.items() if not item[0].endswith(SCRATCH)]
        self.dicts = [value for name, value in items if isinstance(value, dict) and name not in NAMED]
        self.lists = [value for _, value in items if isinstance(value, list)]
        processors = [value for name, value in items if name == "processor" and hasattr(value, "__dict__")]
        self.dicts += [vars(processor) for processor in processors if not isinstance(processor, nn.Module)]

    def held(self) -> list[Any]:
        held: list[Any] = [type(one) for one in self.objects]
        held += [getattr(one, name, None) for one in self.classes for name in ("forward", "postprocess")]
        for some in self.vars:
            is_scratched = any(map(some.__contains__, SCRATCH))
            held += [v for name, v in some.items() if not name.endswith(SCRATCH)] if is_scratched else some.values()
        for some in self.dicts:
            if some:
                held += some.values()
        for several in self.lists:
            held += several
        return held


def _is_same(before: list[Any], now: list[Any]) -> bool:
    """Whether these are the same objects, or equal numbers and texts."""
    if len(before) != len(now):
        return False
    others = (pair for pair in zip(before, now, strict=True) if pair[0] is not pair[1])
    return all(isinstance(one, PLAIN) and one == other for one, other in others)
