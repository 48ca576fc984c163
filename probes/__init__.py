"""Offline probes: find what a diffusion model memorized, locate it, prune it, attack it, and report it."""

from importlib.util import find_spec
from pathlib import Path

# PyPI has another distribution whose import package is called "shield"; installed beside ours it would win silently.
_shield = find_spec("shield")
if _shield is None or _shield.origin is None or Path(_shield.origin).parents[1] != Path(__file__).parents[1]:
    raise ImportError(
        f"probes needs the shield package of diffusion-shield, and found {_shield and _shield.origin}: "
        "uninstall the distribution called 'shield', then install diffusion-shield again."
    )
