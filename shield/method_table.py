"""A table of methods by name: the shipped ones, and those that other distributions bring as entry points.

A distribution brings a method by naming its class in an entry-point group, for example diffusion_shield.detectors.
Those are looked for when a table is gone through, or asked for a name that isn't shipped; importing loads none of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

Method = TypeVar("Method")


class MethodTable(Mapping[str, Method]):
    """Names and classes, the shipped ones first.

    `group` is the entry-point group, `needs` the attributes or fields that a class has to have. A third-party class
    that can't be loaded, lacks one of them, is no dataclass, or has a name that is taken is left out with one warning.
    """

    def __init__(self, group: str, shipped: Mapping[str, Method], needs: tuple[str, ...]) -> None:
        self.group, self.shipped, self.needs = group, shipped, needs

    def __getitem__(self, name: str) -> Method:
        return self.shipped[name] if name in self.shipped else self.others[name]

    def __contains__(self, name: object) -> bool:
        return name in self.shipped or name in self.others

    def __iter__(self) -> Iterator[str]:
        return iter([*self.shipped, *self.others])

    def __len__(self) -> int:
        return len(self.shipped) + len(self.others)

    @cached_property
    def others(self) -> dict[str, Method]:
        """Third-party methods, in the order of their distributions' names."""
        found: dict[str, Method] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: (source_of(point), point.name)):
            try:
                found[point.name] = self._checked(point, {*self.shipped, *found})
            except Exception as error:  # whatever a stranger's module raises when it is imported
                told = " ".join(str(error).split()) or type(error).__name__
                warnings.warn(
                    f"{point.name} of {source_of(point)} ({self.group}) is left out: {told.rstrip('.')}. "
                    f"Mend it, or: pip uninstall {source_of(point)}",
                    stacklevel=3,
                )
        return found

    def _checked(self, point: EntryPoint, taken: set[str]) -> Any:
        """The class of an entry point. Raises TypeError for one that is no such method, else what importing raises."""
        if point.name in taken:
            raise TypeError("there is a method of this name already")
        loaded = point.load()
        if not isinstance(loaded, type):
            raise TypeError(f"a class is needed, and {point.value} is a {type(loaded).__name__}")
        fields = getattr(loaded, "__dataclass_fields__", None)
        if fields is None:
            raise TypeError(f"{loaded.__name__} is no dataclass, whose fields are its options")
        if lacks := [name for name in self.needs if not hasattr(loaded, name) and name not in fields]:
            raise TypeError(f"{loaded.__name__} has no {' and no '.join(lacks)}")
        if getattr(loaded, "name", None) != point.name:
            raise TypeError(f"{loaded.__name__}.name is {getattr(loaded, 'name', None)!r}, not the entry point's name")
        return loaded


def source_of(point: EntryPoint) -> str:
    """The distribution that an entry point comes from."""
    return point.dist.name if point.dist is not None else "an unknown distribution"
