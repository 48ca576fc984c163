"""The interface in a browser: type a prompt, see what the model recalls and what the shield does about it."""

from importlib.util import find_spec
from pathlib import Path

# PyPI has other distributions whose import packages are called "shield" and "probes".
for _name in ("shield", "probes"):
    _found = find_spec(_name)
    if _found is None or _found.origin is None or Path(_found.origin).parents[1] != Path(__file__).parents[1]:
        raise ImportError(
            f"ui needs the {_name} package of diffusion-shield, and found {_found and _found.origin}: "
            f"uninstall the distribution called '{_name}', then install diffusion-shield again."
        )

from shield.version import __version__  # noqa: E402  (only ours has one)

__all__ = ["__version__"]
