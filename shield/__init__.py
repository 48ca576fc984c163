"""A pipeline that watches itself: keeps memorized and protected pictures from leaving a text-to-image diffusion model.

Example:
    import shield

    pipe = shield.Shield(shield.load("testbed"))
    result = pipe("...")
    result.images, result.verdicts
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shield.model.loading import load

if TYPE_CHECKING:
    from shield.protected.concepts import Concepts
    from shield.protected.gallery import Gallery
    from shield.runtime.policy import Policy
    from shield.types import Score, Trace, Verdict
    from shield.wrapper import Shield

_HOMES = {
    "Concepts": "shield.protected.concepts",
    "Gallery": "shield.protected.gallery",
    "Policy": "shield.runtime.policy",
    "Score": "shield.types",
    "Shield": "shield.wrapper",
    "Trace": "shield.types",
    "Verdict": "shield.types",
}

__all__ = ["Concepts", "Gallery", "Policy", "Score", "Shield", "Trace", "Verdict", "load"]


def __getattr__(name: str) -> Any:
    """Imports torch and diffusers when something is used, not when `import shield` runs."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
