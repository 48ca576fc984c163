"""Paths as texts: what a verb of the library takes as a Path may be a str."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


def takes_paths(verb: Callable[Given, Result]) -> Callable[Given, Result]:
    """The verb, with every text that is given where it takes a Path, or a sequence of them, made a Path."""
    signature = inspect.signature(verb)
    takes = [name for name, one in signature.parameters.items() if "Path" in str(one.annotation)]

    @functools.wraps(verb)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        for name in takes:
            if name in bound.arguments:
                bound.arguments[name] = as_path(bound.arguments[name])
        return verb(*bound.args, **bound.kwargs)

    return called


def as_path(given: Any) -> Any:
    """A text as a Path, and those in a list or tuple; everything else as it is."""
    if isinstance(given, list | tuple):
        return type(given)(map(as_path, given))
    return Path(given) if isinstance(given, str) else given
