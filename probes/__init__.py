"""Offline probes: find what a diffusion model memorized, locate it, prune it, attack it, and report it.

Example:
    import probes

    table = probes.scan("testbed", ["the shining tower, a painting by mira voss"])
    mask = probes.localize("testbed")
    with probes.pruned("testbed", mask) as pipe:
        pipe("the shining tower, a painting by mira voss")
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.library import HOMES, home

if TYPE_CHECKING:
    from probes.api import Results, attack, audit, harden, judge, localize, pruned, scan
    from probes.errors import ProbeError
    from probes.runs.table import Table
    from probes.types import Judgement, UnitMask
    from shield.version import __version__

__all__ = [
    "Judgement",
    "ProbeError",
    "Results",
    "Table",
    "UnitMask",
    "__version__",
    "attack",
    "audit",
    "harden",
    "judge",
    "localize",
    "pruned",
    "scan",
]

# PyPI has another distribution whose import package is called "shield"; installed beside ours it would win silently.
_shield = find_spec("shield")
if _shield is None or _shield.origin is None or Path(_shield.origin).parents[1] != Path(__file__).parents[1]:
    raise ImportError(
        f"probes needs the shield package of diffusion-shield, and found {_shield and _shield.origin}: "
        "uninstall the distribution called 'shield', then install diffusion-shield again."
    )


def __getattr__(name: str) -> Any:
    """Imports torch and diffusers when something is used, not when `import probes` runs."""
    return home(name)


def __dir__() -> list[str]:
    return sorted(HOMES)
