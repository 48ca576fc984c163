"""Copy scores that are always available: tiled L2, normalized L2 and PDQ.

All compare pictures after one stated preprocessing, which is stored with every threshold: scores of one metric under
two preprocessings are two metrics. None of them sees a copy that was mirrored, cropped or moved; SSCD (``sscd.py``)
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shield.protected.pictures import open_image

Features = NDArray[np.float32]


class Metric(Protocol):
    """How alike two pictures are. ``features`` once for each picture, ``compare`` for each pair."""

    @property
    def name(self) -> str: ...

    @property
    def preprocessing(self) -> str:
        """What is done to a picture first, in words; a threshold holds for this text only."""

    @property
    def higher_is_copy(self) -> bool: ...

    @property
    def threshold(self) -> float:
        """The published default, where nothing was calibrated."""

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        """(B, ...) one row for each picture."""

    def compare(self, generated: Features, reference: Features) -> NDArray[np.float64]:
        """(B,) row i against row i; nan where the metric can't say."""


@dataclass(frozen=True)
class TiledL2:
    """The largest root-mean-square difference among the tiles of two pictures, 0 (equal) to 1.

    Carlini et al., "Extracting Training Data from Diffusion Models", USENIX Security 2023, arXiv 2301.13188, section
    4.2: with the whole picture at once, two pictures on the same empty background count as near; the worst tile
    doesn't forgive. They use 16 tiles of 128 px at 512 px and 0.15 as the limit on the plain distance; ours are 4 x 4
    tiles of a picture reduced to ``side``, so that a slight blur from the autoencoder isn't held against a copy.
    """

    side: int = 64
    tiles: int = 4
    name: ClassVar[str] = "tiled_l2"
    higher_is_copy: ClassVar[bool] = False
    threshold: ClassVar[float] = 0.15

    @property
    def preprocessing(self) -> str:
        return f"RGB on white, area-averaged to {self.side}x{self.side}, values 0 to 1, {self.tiles}x{self.tiles} tiles"

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        return pixels(pictures, self.side)

    def compare(self, generated: Features, reference: Features) -> NDArray[np.float64]:
        squares = (generated.astype(np.float64) - reference) ** 2
        size = self.side // self.tiles
        tiled = squares.reshape(-1, self.tiles, size, self.tiles, size, 3).mean(axis=(2, 4, 5))
        return np.sqrt(tiled.max(axis=(1, 2)))


@dataclass(frozen=True)
class NormalizedL2:
    """Distance to the reference over ``alpha`` times the mean distance to the nearest pictures of a background.

    Carlini et al. 2023 (arXiv 2301.13188), section 5.1, for CIFAR-10: l(x, r) = L2(x, r) / (alpha * mean of L2(x, y)
    over the n nearest y), with n = 50, alpha = 0.5 and the training set as the background. Smaller is nearer; below 1
    means that the reference is nearer than half of what pictures like this one usually are. Ours takes the matched
    non-members as the background, leaves out pictures equal to the reference, and uses fewer neighbors where there
    are fewer.
    """

    background: Features = field(repr=False, hash=False, compare=False)
    side: int = 64
    neighbors: int = 50
    alpha: float = 0.5
    name: ClassVar[str] = "normalized_l2"
    higher_is_copy: ClassVar[bool] = False
    threshold: ClassVar[float] = 1.0

    @classmethod
    def against(cls, background: Sequence[Image.Image], side: int = 64) -> NormalizedL2:
        """The metric with these pictures as its background; at least two."""
        if len(background) < 2:
            raise ValueError(f"normalized_l2 needs at least two background pictures, and got {len(background)}.")
        return cls(pixels(background, side), side)

    @property
    def preprocessing(self) -> str:
        return (
            f"RGB on white, area-averaged to {self.side}x{self.side}, values 0 to 1, alpha {self.alpha}, at most "
            f"{self.neighbors} neighbors among {len(self.background)} background pictures"
        )

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        return pixels(pictures, self.side)

    def compare(self, generated: Features, reference: Features) -> NDArray[np.float64]:
        ones, others = _flat(generated), _flat(reference)
        background = _flat(self.background)
        distances = _distances(ones, background)
        # Neither the reference nor, when background pictures are compared with each other, the picture itself.
        left_out = (_distances(others, background) < _EQUAL) | (distances < _EQUAL)
        nearest = np.sort(np.where(left_out, np.nan, distances), axis=1)[:, : self.neighbors]  # nan sorts last
        known = np.isfinite(nearest)
        with np.errstate(invalid="ignore", divide="ignore"):
            usual = np.where(known, nearest, 0.0).sum(axis=1) / known.sum(axis=1)
            return np.sqrt(((ones - others) ** 2).mean(axis=1)) / (self.alpha * usual)


@dataclass(frozen=True)
class Pdq:
    """Bits that differ between two 256-bit PDQ hashes, 0 (equal) to about 128 (unrelated).

    Meta, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019; the limit of 31 bits is
    its recommendation. A hash of a picture with little detail says nothing: below ``min_quality`` (PDQ's own 0 to
    100; 50 is its recommendation) the score is nan.
    """

    min_quality: int = 50
    name: ClassVar[str] = "pdq"
    higher_is_copy: ClassVar[bool] = False
    threshold: ClassVar[float] = 31.0

    @property
    def preprocessing(self) -> str:
        return f"RGB on white, PDQ 256 bits, quality at least {self.min_quality}"

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        import pdqhash

        rows = np.empty((len(pictures), 257), dtype=np.float32)
        for row, picture in zip(rows, pictures, strict=True):
            bits, quality = pdqhash.compute(np.ascontiguousarray(rgb(picture)))
            row[:256], row[256] = bits, quality
        return rows

    def compare(self, generated: Features, reference: Features) -> NDArray[np.float64]:
        differ = (generated[:, :256] != reference[:, :256]).sum(axis=1).astype(np.float64)
        differ[(generated[:, 256] < self.min_quality) | (reference[:, 256] < self.min_quality)] = np.nan
        return differ


# Two pictures are the same if they differ by less than rounding does; one step of one value of a 64 px picture is 4e-5.
_EQUAL = 1e-6


def _flat(features: Features) -> NDArray[np.float64]:
    return features.reshape(len(features), int(np.prod(features.shape[1:]))).astype(np.float64)


def _distances(ones: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, K) root-mean-square difference of each of ``ones`` from each of ``others``, by the binomial formula."""
    squares = (ones**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * ones @ others.T
    return np.sqrt(np.maximum(squares, 0.0) / ones.shape[1])


def rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB as shield/protected/pictures.py shows it; one that is so already is itself."""
    return picture if picture.mode == "RGB" and not picture.info else open_image(picture)


def pixels(pictures: Sequence[Image.Image], side: int) -> Features:
    """(B, side, side, 3) in 0 to 1; a picture that isn't square is squeezed."""
    if not pictures:
        return np.empty((0, side, side, 3), dtype=np.float32)
    resized = [np.asarray(rgb(p).resize((side, side), Image.Resampling.BOX)) for p in pictures]
    return np.stack(resized).astype(np.float32) / np.float32(255)
