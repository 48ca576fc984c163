"""The version of the installed distribution, which pyproject.toml states."""

from importlib import metadata

try:
    __version__ = metadata.version("diffusion-shield")
except metadata.PackageNotFoundError:  # run from a folder of sources that was never installed
    __version__ = "0+source"
