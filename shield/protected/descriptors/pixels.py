"""Colors compared place by place: no network, no weights, always there.

A thumbnail's correlation (32 x 32 RGB without its channel means, unit length: near 1 for the same picture whatever its
brightness and contrast), the same of brightness and saturation, which no turn of the hues moves, PDQ, Meta's 256-bit
perceptual hash (Hamming distance; 31 and less is its documented match), and the difference of the
worst of 16 tiles (Carlini et al., USENIX Security 2023, arXiv 2301.13188), which also tells copies of pictures with
little contrast. All are tried on the picture and on its mirror image. No feature sees a copy that is a part of a
picture, or one that was framed, moved or turned: that is what the other descriptors are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from shield.errors import BadRequestError, GalleryError
from shield.protected.descriptors.found import WHOLE, CopyLimit, Match
from shield.thresholds import quantile

THUMBNAIL = 32
TONES = 16
PDQ_BITS = 256
PDQ_MATCH = 31
PDQ_QUALITY = 50
PDQ_PIXELS = 4_000_000
CORRELATION, NEAR_CORRELATION = 0.9, 0.8
TONE_CORRELATION, NEAR_TONES = 0.95, 0.9
UNCALIBRATED_TILES = 0.1  # a distance that counts where the correlation is above ALIKE, until tiles are calibrated
ALIKE = 0.6
TILES, TILE = 4, 4  # tiles a side, and their side in a reduced picture
CANDIDATES = 16  # nearest on average, among which the one of the least worst tile is looked for
PARTS_ALIKE = 2
PART_SIDES = (32, 48, 64)  # sides of the parts of a picture, of 64
LARGEST = 20_000  # protected pictures up to which parts are compared
SAME = 0.999  # correlation of a picture with itself
FORMS = {
    "thumbnails": (np.float32, 3 * THUMBNAIL**2),
    "hashes": (np.uint8, PDQ_BITS // 8),
    "colors": (np.float32, 3 * (TILES * TILE) ** 2),
    "tones": (np.float32, 2 * TONES**2),
}


def thumbnail(image: Image.Image) -> np.ndarray:
    """(3072,) float32 of unit length, or all zero for a picture without structure. The dot product of two is their
    correlation.
    """
    small = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float32) / 255.0
    centered = (small - small.mean(axis=(0, 1))).ravel()
    norm = float(np.linalg.norm(centered))
    return centered / norm if norm > 1e-3 * THUMBNAIL else np.zeros_like(centered)


def tones(image: Image.Image) -> np.ndarray:
    """(512,) float32 of unit length: brightness (the largest channel) and saturation without their means, 16 x 16; all
    zero for a picture whose structure is in the hues alone.
    """
    image.load()
    small = image.reduce(math.ceil(max(image.size) / 256)) if max(image.size) > 256 else image
    held = small.convert("HSV").split()[1:]
    reduced = [np.asarray(one.resize((TONES, TONES), Image.Resampling.BOX), np.float32) / 255.0 for one in held]
    centered = np.concatenate([(one - one.mean()).ravel() for one in reduced])
    norm = float(np.linalg.norm(centered))
    return centered / norm if norm > 0.5 else np.zeros_like(centered)


def colors(image: Image.Image) -> np.ndarray:
    """(768,) float32 from 0 to 1: the picture reduced to 16 x 16 RGB."""
    small = image.resize((TILES * TILE, TILES * TILE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255.0


def worst_tile(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) root mean square difference, 0 to 1, in the tile where colors (768,) and (N, 768) differ most."""
    squares = (others - one).reshape(-1, TILES, TILE, TILES, TILE, 3) ** 2
    return np.sqrt(squares.mean(axis=(2, 4, 5)).max(axis=(1, 2)))


def pdq(image: Image.Image) -> tuple[np.ndarray, int]:
    """((32,) uint8, quality 0-100): the 256 bits packed. Hashes of a low quality say nothing.

    A picture of more than PDQ_PIXELS is reduced first: the hash looks at 64 x 64 averages, and would need 30 bytes and
    .1 microseconds for each pixel. That moves a few bits of a photograph's.
    """
    import pdqhash

    factor = math.ceil(math.sqrt(image.width * image.height / PDQ_PIXELS))
    small = image.reduce(factor) if factor > 1 else image
    bits, quality = pdqhash.compute(np.ascontiguousarray(np.asarray(small)))
    return np.packbits(bits), int(quality)


def layouts(reduced: np.ndarray) -> np.ndarray:
    """(N, 192) float32 of unit length: `colors` (N, 768) reduced to 8 x 8, without their means, all zero for flat ones.
    The dot product of two is their correlation.
    """
    small = reduced.reshape(len(reduced), 8, 2, 8, 2, 3).mean(axis=(2, 4))
    centered = (small - small.mean(axis=(1, 2), keepdims=True)).reshape(len(small), 192)
    norms = np.linalg.norm(centered, axis=1, keepdims=True)
    return np.where(norms > 0.1, centered / np.maximum(norms, 1e-9), 0.0).astype(np.float32)


def part_layouts(image: Image.Image) -> np.ndarray:
    """(M, 192): layouts of the picture's parts: nine of half its sides, nine of three quarters, and the whole."""
    side = 4 * TILES * TILE
    fine = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32) / 255.0
    parts = [
        fine[y : y + wide, x : x + wide].reshape(16, wide // 16, 16, wide // 16, 3).mean(axis=(1, 3))
        for wide in PART_SIDES
        for y in range(0, side - wide + 1, max(1, (side - wide) // 2))
        for x in range(0, side - wide + 1, max(1, (side - wide) // 2))
    ]
    return layouts(np.stack(parts))


def views(picture: Image.Image) -> list[Image.Image]:
    """A picture and its mirror image."""
    return [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


class Pixels:
    """Protected pictures' colors. Scores are correlations, 1 - distance / 256 of PDQ, 1 - distance of tiles.

    `tile_distance` 0: uncalibrated; tiles match up to UNCALIBRATED_TILES, and only where thumbnails correlate, too.
    """

    name: ClassVar[str] = "pixels"
    extra: ClassVar[str] = ""

    def __init__(self) -> None:
        import faiss

        self._faiss = faiss
        self.limits: dict[str, CopyLimit] = {
            "correlation": CopyLimit(CORRELATION, NEAR_CORRELATION),
            "tones": CopyLimit(TONE_CORRELATION, NEAR_TONES),
            "pdq": CopyLimit(1.0 - (PDQ_MATCH + 0.5) / PDQ_BITS, 1.0 - (PDQ_MATCH + 0.5) / PDQ_BITS),
            "tiles": CopyLimit(1.0 - UNCALIBRATED_TILES, 1.0 - UNCALIBRATED_TILES),
        }
        self.pdq_distance, self.tile_distance = PDQ_MATCH, 0.0
        self.thumbnails, self.hashes, self.colors, self.tones = (
            np.empty((0, width), kind) for kind, width in FORMS.values()
        )
        self.good, self.layouts = np.empty(0, bool), np.empty((0, 192), np.float32)
        self._index()

    @staticmethod
    def available() -> bool:
        """Always."""
        return True

    def __len__(self) -> int:
        return len(self.thumbnails)

    def describe(self, images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """For each picture what `add` takes."""
        rows = []
        for image in images:
            bits, quality = pdq(image)
            rows.append(
                {
                    "thumbnails": thumbnail(image),
                    "hashes": bits,
                    "good": np.bool_(quality >= PDQ_QUALITY),
                    "colors": colors(image),
                    "tones": tones(image),
                }
            )
        return rows

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds what `describe` gave."""
        if not rows:
            return
        added = {name: np.stack([row[name] for row in rows]) for name in (*FORMS, "good")}
        for name, values in added.items():
            setattr(self, name, np.concatenate([getattr(self, name), values]))
        self.flat.add(added["thumbnails"])
        self.near.add(added["colors"])
        self.layouts = np.concatenate([self.layouts, layouts(added["colors"])])
        self.toned.add(added["tones"])
        self.binary.add(added["hashes"][added["good"]])

    def keep(self, kept: np.ndarray) -> None:
        """Removes the pictures for which `kept` (N,) is False."""
        for name in (*FORMS, "good"):
            setattr(self, name, getattr(self, name)[kept])
        self._index()

    def _index(self) -> None:
        faiss = self._faiss
        self.layouts = layouts(self.colors)
        self.flat = faiss.IndexFlatIP(self.thumbnails.shape[1])
        self.flat.add(self.thumbnails)
        self.near = faiss.IndexFlatL2(self.colors.shape[1])
        self.near.add(self.colors)
        self.toned = faiss.IndexFlatIP(self.tones.shape[1])
        self.toned.add(self.tones)
        self.binary = faiss.IndexBinaryFlat(PDQ_BITS)
        self.binary.add(self.hashes[self.good])

    def find(self, image: Image.Image, candidates: Sequence[int] = ()) -> Match | None:
        """The first that is a copy, by correlation, PDQ, tiles or tones; otherwise the best correlation."""
        if not len(self):
            return None
        score, place = self.correlated([image])[0]
        best = Match(place, "correlation", score, WHOLE)
        if score > self.limits["correlation"].copy:
            return best
        seen = views(image)
        match = self._pdq_match(seen) or self._tile_match(seen) or self._tone_match(seen)
        return match or best._replace(candidates=self._parts_alike(seen))

    def _parts_alike(self, seen: Sequence[Image.Image]) -> tuple[int, ...]:
        """Places of the PARTS_ALIKE protected pictures whose layout correlates most with that of a part of this one."""
        if len(self) > LARGEST:
            return ()
        rows = np.stack([layout for view in seen for layout in part_layouts(view)])
        best = (self.layouts @ rows.T).max(axis=1)
        return tuple(int(place) for place in np.argsort(-best, kind="stable")[:PARTS_ALIKE])

    def correlated(self, pictures: Sequence[Image.Image]) -> list[tuple[float, int]]:
        """(correlation, position) of what each picture, or its mirror image, correlates with most."""
        return self._searched(self.flat, np.stack([thumbnail(view) for one in pictures for view in views(one)]))

    def toned_alike(self, pictures: Sequence[Image.Image]) -> list[tuple[float, int]]:
        """The same, by brightness and saturation."""
        return self._searched(self.toned, np.stack([tones(view) for one in pictures for view in views(one)]))

    def _searched(self, index: Any, rows: np.ndarray) -> list[tuple[float, int]]:
        scores, places = (found.reshape(-1, 2) for found in index.search(rows, 1))
        best = scores.argmax(axis=1)
        return [(float(scores[i, b]), int(places[i, b])) for i, b in enumerate(best)]

    def _tone_match(self, seen: Sequence[Image.Image]) -> Match | None:
        score, place = self.toned_alike(seen[:1])[0]
        return Match(place, "tones", score, WHOLE) if score > self.limits["tones"].copy else None

    def _pdq_match(self, seen: Sequence[Image.Image]) -> Match | None:
        hashed = [bits for bits, quality in map(pdq, seen) if quality >= PDQ_QUALITY]
        if not hashed or not self.good.any():
            return None
        distances, places = self.binary.search(np.stack(hashed), 1)
        best = int(distances[:, 0].argmin())
        if int(distances[best, 0]) > self.pdq_distance:
            return None
        place = int(np.flatnonzero(self.good)[int(places[best, 0])])
        return Match(place, "pdq", 1.0 - int(distances[best, 0]) / PDQ_BITS, WHOLE)

    def _tile_match(self, seen: Sequence[Image.Image]) -> Match | None:
        (distance, place), view = min((self._worst_tiles(view), n) for n, view in enumerate(seen))
        if distance >= (self.tile_distance or UNCALIBRATED_TILES):
            return None
        if not self.tile_distance and float(self.thumbnails[place] @ thumbnail(seen[view])) <= ALIKE:
            return None
        return Match(place, "tiles", 1.0 - distance, WHOLE)

    def _worst_tiles(self, view: Image.Image) -> tuple[float, int]:
        """(distance, place) of the protected picture whose worst tile is least unlike this one's."""
        reduced = colors(view)
        _, places = self.near.search(reduced[None], min(CANDIDATES, len(self)))
        distances = worst_tile(reduced, self.colors[places[0]])
        best = int(distances.argmin())
        return float(distances[best]), int(places[0, best])

    def join(self, other: Pixels) -> None:
        """Adds the pictures of another one."""
        for name in (*FORMS, "good"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        self._index()

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs."""
        return {name: getattr(self, name) for name in (*FORMS, "good")}

    def restore(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        """What `arrays` gave, of `count` pictures. Raises ValueError or KeyError for anything else."""
        for name in (*FORMS, "good"):
            read, form = arrays[name], getattr(self, name)
            if (read.dtype, read.shape[1:]) != (form.dtype, form.shape[1:]):
                raise ValueError(f"its {name} are {read.dtype} {list(read.shape)}")
            if len(read) != count:
                raise ValueError("its ids and features differ in number")
        for name in (*FORMS, "good"):
            setattr(self, name, arrays[name])
        self._index()


def calibrated_pixels(
    held: Pixels, named: Sequence[tuple[str, Image.Image]], works: Sequence[str], fpr: float
) -> dict[str, tuple[float, tuple[float, float]]]:
    """The `correlation` and minus the `tile_distance` that at most `fpr` of pictures like these (name, picture) exceed,
    with intervals. Raises BadRequestError and GalleryError as Gallery.calibrate.
    """
    import faiss

    features = np.stack([thumbnail(p) for _, p in named]) if named else np.empty((0, 3 * THUMBNAIL**2), np.float32)
    others = faiss.IndexFlatIP(features.shape[1])
    others.add(features)
    nearest = []
    for place, (name, picture) in enumerate(named):
        score, held_at = held.correlated([picture])[0] if len(held) else (-1.0, -1)
        if score > SAME:
            equal = f"{name} is the protected picture of {works[held_at]}"
            raise GalleryError(f"{equal}, so it is no example of a non-copy.")
        found, indexes = others.search(np.stack([thumbnail(view) for view in views(picture)]), 2)
        nearest.append(max([score, *found[(indexes != place) & (indexes >= 0)].tolist()]))
    value, interval = quantile("The gallery", nearest, fpr)
    if value <= 0.0:
        raise BadRequestError("These pictures are too plain to calibrate with; use such as are to be checked.")
    return {
        "correlation": (value, interval),
        "tile_distance": quantile("The gallery", [-distance for distance in _nearest_tiles(held, named)], fpr),
    }


def _nearest_tiles(held: Pixels, named: Sequence[tuple[str, Image.Image]]) -> list[float]:
    """Each picture's least worst tile against the protected pictures and the other ones, it or its mirror image."""
    ones = np.stack([colors(picture) for _, picture in named])
    found = []
    for place, (_, picture) in enumerate(named):
        rest = np.concatenate([held.colors, np.delete(ones, place, axis=0)])
        found.append(min(float(worst_tile(colors(view), rest).min()) for view in views(picture)))
    return found
