"""Lays a protected picture onto another one by its colors alone: for pictures with too few corners for local features.

The protected picture's colors are compared at every place of a reduced picture, at SCALES and TURNS (normalized
cross-correlation), and the best place is refined to a homography (the enhanced correlation coefficient of Evangelidis
and Psarakis, TPAMI 2008; OpenCV has both). This costs some milliseconds a protected picture, so that only those are
tried that the other descriptors name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
from PIL import Image

from shield.protected.descriptors.found import CopyLimit, Match
from shield.protected.descriptors.placement import GRID, alike, is_plain, region_of

SIDE, REFINED_SIDE = 48, 128  # longer sides of the picture, to search in and to refine in
SCALES = tuple(0.42 * 1.1**n for n in range(15))  # of the largest that fits into the picture
TURNS = (-15.0, -7.5, 7.5, 15.0)  # degrees
SMALLEST = 8  # sides in reduced pixels
ITERATIONS = 40
HOPELESS = 0.5  # a coarse correlation below which nothing is refined
ASKED_SIDE, HELD_SIDE = 384, 256  # longer sides of a picture that is looked up, and of a protected one
Placed = tuple[float, np.ndarray]
"""The coarse correlation, and (3, 3) that lays the protected picture onto the other one."""


class Dense:
    """Protected pictures' colors, laid onto a picture. The score is the correlation of the matched region, -1 to 1.

    Don't trust its silence: it looks only at pictures that others name. Don't trust what it finds in pictures of a
    series that differ in a small part alone.
    """

    name: ClassVar[str] = "dense"
    extra: ClassVar[str] = "local"

    def __init__(self) -> None:
        self.limits: dict[str, CopyLimit] = {"dense": CopyLimit(0.93, 0.88, "conservative, calibrated on nothing")}
        self._colors = np.empty((0, GRID, GRID, 3), np.uint8)
        self._sizes = np.empty((0, 2), np.int32)

    @staticmethod
    def available() -> bool:
        """Whether OpenCV is installed (extra `local`)."""
        return find_spec("cv2") is not None

    def __len__(self) -> int:
        return len(self._colors)

    def describe(self, images: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
        """For each picture what `add` takes."""
        return [
            {
                "colors": np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), np.uint8),
                "sizes": np.array(_size(image, HELD_SIDE), np.int32),
            }
            for image in images
        ]

    def add(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Adds what `describe` gave."""
        if rows:
            self._colors = np.concatenate([self._colors, np.stack([row["colors"] for row in rows])])
            self._sizes = np.concatenate([self._sizes, np.stack([row["sizes"] for row in rows])])

    def keep(self, kept: np.ndarray) -> None:
        """Removes the pictures for which `kept` (N,) is False."""
        self._colors, self._sizes = self._colors[kept], self._sizes[kept]

    def find(self, image: Image.Image, candidates: Sequence[int] = ()) -> Match | None:
        """The one of the `candidates` that fits best somewhere in this picture; None without any."""
        size, best = _size(image, ASKED_SIDE), None
        views = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] if candidates else []
        pixels = [np.asarray(view.resize(size, Image.Resampling.BOX)) for view in views]
        for place in dict.fromkeys(candidates):
            held = (int(self._sizes[place][0]), int(self._sizes[place][1]))
            for laid, mirrored in placed(pixels, self._colors[place], held):
                if not is_plain(laid, held, size):
                    continue
                score = alike(pixels[mirrored], laid, held, self._colors[place], self.limits["dense"].copy)
                if best is None or score > best.score:
                    best = Match(place, "dense", score, region_of(laid, held, size, mirrored))
            if best is not None and best.score > self.limits["dense"].copy:
                return best
        return best

    def join(self, other: Dense) -> None:
        """Adds the pictures of another one."""
        self._colors = np.concatenate([self._colors, other._colors])
        self._sizes = np.concatenate([self._sizes, other._sizes])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs."""
        return {"colors": self._colors, "sizes": self._sizes}

    def restore(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        """What `arrays` gave, of `count` pictures. Raises ValueError or KeyError for anything else."""
        colors, sizes = arrays["colors"], arrays["sizes"]
        forms = [colors.shape == (count, GRID, GRID, 3), sizes.shape == (count, 2)]
        if not all(forms) or colors.dtype != np.uint8 or sizes.dtype != np.int32 or (sizes < 1).any():
            raise ValueError(f"its colors are {colors.dtype} {list(colors.shape)}")
        self._colors, self._sizes = colors, sizes


def placed(views: Sequence[np.ndarray], colors: np.ndarray, size: tuple[int, int]) -> list[tuple[np.ndarray, bool]]:
    """(3, 3) that lay a protected picture, of this size and with these colors (G, G, 3), onto a picture or its mirror
    image (H, W, 3), and whether it is the latter: upright and, where it fits better, turned, each coarse and, where it
    could be, refined. Empty where nothing fits.
    """
    small, shrunk = zip(*(_reduced(view, SIDE) for view in views), strict=True)
    tried = [_searched(view, colors, size, 0.0) for view in small]
    mirrored = len(views) > 1 and tried[1][0] > tried[0][0]
    upright = tried[mirrored]
    turned = max((_searched(small[mirrored], colors, size, turn) for turn in TURNS), key=lambda one: one[0])
    made = list[tuple[np.ndarray, bool]]()
    for score, laid in (upright, turned) if turned[0] > upright[0] else (upright,):
        if score >= HOPELESS:
            found = shrunk[mirrored] @ laid
            refined = _refined(views[mirrored], colors, size, found)
            made += [(one, mirrored) for one in (refined, found) if one is not None]
    return made


def _searched(small: np.ndarray, colors: np.ndarray, size: tuple[int, int], turn: float) -> Placed:
    """The best place at any scale, of the picture turned by so many degrees."""
    import cv2

    height, width = small.shape[:2]
    turned = np.vstack([cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), turn, 1.0), [0, 0, 1]])
    shown = cv2.warpAffine(small, turned[:2], (width, height), borderMode=cv2.BORDER_REPLICATE) if turn else small
    best: Placed = (-1.0, np.eye(3))
    for wide, high in _sides(width, height, size):
        template, inside = _shrunk(colors, (wide, high)), wide <= width and high <= height
        larger, smaller = (shown, template) if inside else (template, shown)
        scores = cv2.matchTemplate(larger, smaller, cv2.TM_CCOEFF_NORMED)
        _, score, _, (x, y) = cv2.minMaxLoc(scores)
        if math.isfinite(score) and best[0] < score <= 1.001:
            moved = _moved(x, y) if inside else _moved(-x, -y)
            best = (score, np.linalg.inv(turned) @ moved @ _scaled(wide / size[0], high / size[1]))
    return best


def _sides(width: int, height: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of the protected picture that lie within the picture, or that the picture lies within."""
    fits = min(width / size[0], height / size[1])
    sides = [(round(fits * scale * size[0]), round(fits * scale * size[1])) for scale in (*SCALES, 1.0)]
    return [
        (wide, high)
        for wide, high in dict.fromkeys(sides)
        if min(wide, high) >= SMALLEST and ((wide <= width and high <= height) or (wide >= width and high >= height))
    ]


def _refined(pixels: np.ndarray, colors: np.ndarray, size: tuple[int, int], laid: np.ndarray) -> np.ndarray | None:
    import cv2

    small, shrunk = _reduced(pixels, REFINED_SIDE)
    side = colors.shape[0]
    fine = np.linalg.inv(shrunk) @ laid @ _scaled(size[0] / side, size[1] / side)
    ends = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 1e-4)
    shown, template = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (small, colors))
    start = (fine / fine[2, 2]).astype(np.float32)
    try:
        _, made = cv2.findTransformECC(template, shown, start, cv2.MOTION_HOMOGRAPHY, ends)
    except cv2.error:
        return None
    return shrunk @ made.astype(np.float64) @ _scaled(side / size[0], side / size[1])


def _reduced(pixels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture with `side` as its longer one, and (3, 3) from there back to its pixels."""
    height, width = pixels.shape[:2]
    factor = side / max(width, height)
    to = (max(SMALLEST, round(factor * width)), max(SMALLEST, round(factor * height)))
    return _shrunk(pixels, to), _scaled(width / to[0], height / to[1])


def _shrunk(pixels: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.resize(pixels, to, interpolation=cv2.INTER_AREA)


def _scaled(x: float, y: float) -> np.ndarray:
    """Scaling in coordinates whose whole numbers are the pixels' centers."""
    return np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]])


def _moved(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def _size(image: Image.Image, side: int) -> tuple[int, int]:
    factor = side / max(image.size)
    return max(16, round(image.width * factor)), max(16, round(image.height * factor))
