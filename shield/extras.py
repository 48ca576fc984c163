"""Packages that an extra of the distribution brings, and the one sentence where such a package is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from shield.errors import MissingExtraError

EXTRA_OF = {
    "cv2": "local",
    "fastapi": "serve",
    "gguf": "language-model",
    "gradio": "ui",
    "jinja2": "probes",
    "markupsafe": "probes",
    "matplotlib": "probes",
    "open_clip": "meaning",
    "peft": "lora",
    "prometheus_client": "serve",
    "pyarrow": "probes",
    "pydantic": "serve",
    "ray": "ray",
    "starlette": "ui",
    "tokenizers": "probes",
    "uvicorn": "serve",
}
"""Import name -> the smallest extra with it."""


@contextmanager
def extras_named(wanted: str | None = None) -> Iterator[None]:
    """Where the block imports a package that isn't installed, tells the command that brings it.

    Args:
        wanted: The extra to name; by default the smallest one with the package.

    Raises:
        MissingExtraError: A package of an extra is missing. Any other import error goes on as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF or isinstance(error, MissingExtraError):
            raise
        extra = wanted or EXTRA_OF[package]
        raise MissingExtraError(
            f"This needs {package}, which isn't installed: pip install 'diffusion-shield[{extra}]'.", name=package
        ) from None
