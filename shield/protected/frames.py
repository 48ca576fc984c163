"""Pictures as a gallery takes them: opened, each frame of an animation, and refused where nothing can be protected."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from shield.errors import GalleryError, reason_of
from shield.protected.descriptors.pixels import SAME, thumbnail
from shield.protected.pictures import UNREADABLE, open_frames, open_image


def opened(source: Any) -> Image.Image:
    """A PIL picture in RGB from a path, a picture, an array or a tensor. Raises GalleryError for an unreadable one."""
    try:
        return open_image(source)
    except UNREADABLE as error:
        raise _unreadable(source, error) from None


def frames(work: str, source: Any) -> list[Image.Image]:
    """A picture's frames, without those that equal one before.

    Raises:
        GalleryError: The picture of this work can't be read, or is one flat color.
    """
    found, features = list[Image.Image](), list[np.ndarray]()
    try:
        for image in open_frames(source):
            feature = thumbnail(image)
            if feature.any() and all(float(feature @ other) <= SAME for other in features):
                found.append(image)
                features.append(feature)
    except UNREADABLE as error:
        raise _unreadable(source, error) from None
    if not found:
        raise GalleryError(f"The picture of {work} is one flat color, which can't be protected; remove it.")
    return found


def _unreadable(source: Any, error: Exception) -> GalleryError:
    named = f"An {type(source).__name__}" if hasattr(source, "__array__") else source
    return GalleryError(f"{named} can't be read as a picture ({reason_of(error)}); replace or remove it.")
