"""What a bench drew, kept in files, so that a run that was cut off goes on where it ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Drawn = tuple[list[Image.Image], list[str]]
"""Pictures of one size, and words on each, if any."""


def kept_pictures(folder: Path, setting: object, draw: Callable[[], Drawn]) -> Drawn:
    """What `draw` gives, kept in a file that is named after the setting it depends on, and later read there."""
    file = folder / f"{hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:24]}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures, words = draw()
        begun = file.with_suffix(".part")
        with begun.open("wb") as stream:
            np.savez_compressed(
                stream, pictures=np.stack([np.asarray(p) for p in pictures]), words=np.array(words, str)
            )
        begun.replace(file)
    with np.load(file) as stored:
        return [Image.fromarray(array) for array in stored["pictures"]], stored["words"].tolist()
