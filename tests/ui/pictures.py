"""Pictures with structure, different for each number."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, side: int = 64) -> Image.Image:
    cells = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def saved(folder: Path, number: int, name: str | None = None) -> Path:
    path = folder / (name or f"{number}.png")
    picture(number).save(path)
    return path
