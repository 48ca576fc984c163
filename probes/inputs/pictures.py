"""Reference pictures of what is asked about."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image

from probes.errors import PromptFileError
from shield.errors import reason_of
from shield.protected.pictures import UNREADABLE, open_image


@lru_cache(maxsize=512)
def reference_picture(path: Path) -> Image.Image:
    """A target's reference picture; PromptFileError if the file is no picture."""
    try:
        return open_image(path)
    except UNREADABLE as error:
        raise PromptFileError(f"The reference picture {path} can't be read: {reason_of(error)}.") from error
