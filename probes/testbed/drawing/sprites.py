"""Pictures of things with an alpha channel, read once from the npm package @lobehub/fluent-emoji-3d."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from probes.testbed.drawing.vocabulary import FIGURES, THINGS
from shield.errors import ShieldError

SIDE = 160
STEMS = (*THINGS.values(), *FIGURES)


class SourcesError(ShieldError):
    """The pictures a world is composed of are missing or broken."""

    bad_input = True


class Sprites:
    """By file stem or by a thing's name; `folder` is the package's assets folder, or the testbed's copy of a part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._images = {stem: _read(folder / f"{stem}.webp") for stem in STEMS}

    def __getitem__(self, name: str) -> Image.Image:
        """RGBA, SIDE x SIDE."""
        return self._images[THINGS.get(name, name)]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return _square(image.convert("RGBA")).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise SourcesError(
            f"A picture is needed at {path} and is not there; unpack the npm package @lobehub/fluent-emoji-3d "
            "(npm pack @lobehub/fluent-emoji-3d) and pass its assets folder as --sources."
        ) from None
    except (OSError, SyntaxError) as error:
        raise SourcesError(f"{path} can't be read as a picture ({error}); fetch it again.") from None


def _square(image: Image.Image) -> Image.Image:
    """Without its empty margins, on the smallest square: a size is then the size of what is seen."""
    cut = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    square = Image.new("RGBA", (max(cut.size),) * 2, (0, 0, 0, 0))
    square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
    return square


def turned(sprite: Image.Image, size: float, turn: float) -> np.ndarray:
    """(S, S, 4) float in 0..1, alpha premultiplied: the sprite `size` px wide, turned by `turn` degrees."""
    small = sprite.convert("RGBa").resize((round(size),) * 2, Image.Resampling.LANCZOS)
    return np.asarray(small.rotate(turn, Image.Resampling.BICUBIC, expand=True), dtype=np.float32) / 255


def paste(picture: np.ndarray, layer: np.ndarray, center: Sequence[float] | np.ndarray) -> None:
    """Puts a premultiplied layer on an (H, W, 3) picture in 0..1, in place; what lies outside is cut off."""
    (high, wide), (h, w) = picture.shape[:2], layer.shape[:2]
    left, top = round(float(center[0]) - w / 2), round(float(center[1]) - h / 2)
    rows, columns = slice(max(0, top), min(high, top + h)), slice(max(0, left), min(wide, left + w))
    part = layer[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    picture[rows, columns] = picture[rows, columns] * (1 - part[..., 3:]) + part[..., :3]
