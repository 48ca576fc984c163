"""What `import probes` offers, loaded when it is used: names and the modules that they live in."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

HOMES = {
    "__version__": "shield.version",
    "Judgement": "probes.types",
    "ProbeError": "probes.errors",
    "Results": "probes.api",
    "Table": "probes.runs.table",
    "UnitMask": "probes.types",
    "attack": "probes.api",
    "audit": "probes.api",
    "harden": "probes.api",
    "judge": "probes.api",
    "localize": "probes.api",
    "pruned": "probes.api",
    "scan": "probes.api",
}


def home(name: str) -> Any:
    """What `probes.NAME` is. AttributeError for a name that isn't offered; MissingExtraError without the extra."""
    if name not in HOMES:
        raise AttributeError(f"module 'probes' has no attribute {name!r}")
    from shield.extras import extras_named  # once `probes` has seen whose package shield is

    with extras_named("probes"):
        return getattr(import_module(HOMES[name]), name)


class CallablePackage(ModuleType):
    """A package whose name is a function, too: probes.scan.scan is a module in it, probes.scan(...) calls the API.

    Importing a module of a package sets the package's name in `probes`, which would hide the function there.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        return home(self.__name__.removeprefix("probes."))
