"""Protected pictures, and the one nearest to a finished picture.

Three features that need no network and no weights: a thumbnail's correlation (32 x 32 RGB without its channel means,
unit length: near 1 for the same picture whatever its brightness and contrast), PDQ, Meta's 256-bit perceptual hash
(Hamming distance; 31 and less is its documented match), and, once calibrated, the difference of the worst of 16 tiles
(Carlini et al., USENIX Security 2023, arXiv 2301.13188), which also tells copies of pictures with little contrast. All
are tried on the picture and on its mirror image. FAISS finds the nearest of thousands in milliseconds. No feature sees
a copy that is a small part of a picture, or one that is rotated.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from shield.errors import BadRequestError, GalleryError
from shield.pictures import UNREADABLE, open_frames, open_image, picture_files
from shield.thresholds import quantile
from shield.types import Nearest

THUMBNAIL = 32
PDQ_BITS = 256
PDQ_MATCH = 31
PDQ_QUALITY = 50
PDQ_PIXELS = 4_000_000
CORRELATION = 0.9
SAME = 0.999
TILES, TILE = 4, 4  # tiles a side, and their side in a reduced picture
CANDIDATES = 16  # nearest on average, among which the one of the least worst tile is looked for
FORMAT = 2
UNCALIBRATED = {
    "correlation": "the default, calibrated on nothing; run `diffshield calibrate-gallery`",
    "tile_distance": "off until calibrated; run `diffshield calibrate-gallery`",
    "pdq_distance": "Meta's recommendation for PDQ (The TMK+PDQF Video-Hashing Algorithm, 2019)",
}


def opened(source: Any) -> Image.Image:
    """A PIL picture in RGB from a path, a picture, an array or a tensor. Raises GalleryError for an unreadable one."""
    try:
        return open_image(source)
    except UNREADABLE as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Any, error: Exception) -> GalleryError:
    named = f"An {type(source).__name__}" if hasattr(source, "__array__") else source
    return GalleryError(f"{named} can't be read as a picture ({error}); replace or remove it.")


def thumbnail(image: Image.Image) -> np.ndarray:
    """(3072,) float32 of unit length, or all zero for a picture without structure. The dot product of two is their
    correlation.
    """
    small = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float32) / 255.0
    centered = (small - small.mean(axis=(0, 1))).ravel()
    norm = float(np.linalg.norm(centered))
    return centered / norm if norm > 1e-3 * THUMBNAIL else np.zeros_like(centered)


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


class Gallery:
    """Protected pictures by work. `correlation` above which, `pdq_distance` up to which, and `tile_distance` below
    which (0: never) a picture is a copy. `provenance` says where these come from.
    """

    def __init__(
        self, correlation: float = CORRELATION, pdq_distance: int = PDQ_MATCH, tile_distance: float = 0.0
    ) -> None:
        import faiss

        if not 0.0 < correlation <= 1.0:
            raise BadRequestError(f"A correlation threshold lies between 0 and 1; {correlation:g} was given.")
        self.correlation, self.pdq_distance, self.tile_distance = correlation, pdq_distance, tile_distance
        self.provenance: Mapping[str, Any] = dict(UNCALIBRATED)
        self._works: list[str] = []
        self._thumbnails = np.empty((0, 3 * THUMBNAIL**2), np.float32)
        self._hashes = np.empty((0, PDQ_BITS // 8), np.uint8)
        self._good = np.empty(0, bool)
        self._colors = np.empty((0, 3 * (TILES * TILE) ** 2), np.float32)
        self._faiss = faiss
        self._index()

    def __len__(self) -> int:
        return len(self._works)

    @property
    def works(self) -> tuple[str, ...]:
        """Ids of the protected works, one per picture, in the order they were added."""
        return tuple(self._works)

    @classmethod
    def from_folder(cls, folder: Path, correlation: float = CORRELATION) -> "Gallery":
        """Every picture in a folder and the folders in it, by its path from there without the ending.

        Files that aren't named as pictures are left out, and a warning of the logger `shield` names them. Of an
        animation, or of a file with several pages, every frame is protected.

        Raises:
            GalleryError: The folder holds no picture, or some that can't be protected.
        """
        root, paths = Path(folder), picture_files(folder)
        if not paths:
            raise GalleryError(f"{folder} holds no pictures (.png, .jpg, .webp and what else Pillow reads).")
        rows, refused = list[_Row](), list[GalleryError]()
        for path in paths:
            try:
                rows += _rows(path.relative_to(root).with_suffix("").as_posix(), path)
            except GalleryError as error:
                refused.append(error)
        if refused:
            said = " ".join(str(error) for error in refused[:3]) + (" ..." if len(refused) > 3 else "")
            raise GalleryError(f"{len(refused)} of {len(paths)} pictures in {folder} can't be protected: {said}")
        gallery = cls(correlation)
        gallery._append(rows)
        return gallery

    def add(self, pictures: Iterable[tuple[str, Any]]) -> None:
        """Adds (work id, path, PIL picture, array or tensor) pairs: all of them or, when one is refused, none.

        Raises GalleryError for an unreadable picture or one without structure (a single color can't be told from
        another).
        """
        self._append([row for work, source in pictures for row in _rows(work, source)])

    def _append(self, rows: Sequence["_Row"]) -> None:
        if not rows:
            return
        thumbnails, reduced = np.stack([row.thumbnail for row in rows]), np.stack([row.colors for row in rows])
        bits, good = np.stack([row.bits for row in rows]), np.array([row.quality >= PDQ_QUALITY for row in rows])
        self._works += [row.work for row in rows]
        self._thumbnails = np.concatenate([self._thumbnails, thumbnails])
        self._hashes = np.concatenate([self._hashes, bits])
        self._good = np.concatenate([self._good, good])
        self._colors = np.concatenate([self._colors, reduced])
        self._flat.add(thumbnails)
        self._near.add(reduced)
        self._binary.add(bits[good])

    def remove(self, work: str) -> int:
        """Removes a work's pictures and returns how many there were. Raises GalleryError for an unknown work."""
        keep = np.array([w != work for w in self._works], dtype=bool)
        if keep.all():
            raise GalleryError(f"The gallery holds no work {work!r}.")
        self._works = [w for w in self._works if w != work]
        self._thumbnails, self._hashes, self._good = self._thumbnails[keep], self._hashes[keep], self._good[keep]
        self._colors = self._colors[keep]
        self._index()
        return int((~keep).sum())

    def _check(self) -> None:
        """ValueError unless what was loaded is what save writes."""
        empty = Gallery()
        for name in ("_thumbnails", "_hashes", "_good", "_colors"):
            read, form = getattr(self, name), getattr(empty, name)
            if (read.dtype, read.shape[1:]) != (form.dtype, form.shape[1:]):
                raise ValueError(f"its {name[1:]} are {read.dtype} {list(read.shape)}")
            if len(read) != len(self._works):
                raise ValueError("its ids and features differ in number")
        if not all(isinstance(work, str) for work in self._works):
            raise ValueError("its ids aren't texts")
        if not (np.isfinite(self.tile_distance) and np.isfinite(self.pdq_distance)):
            raise ValueError("its thresholds are no numbers")

    def _index(self) -> None:
        self._flat = self._faiss.IndexFlatIP(self._thumbnails.shape[1])
        self._flat.add(self._thumbnails)
        self._near = self._faiss.IndexFlatL2(self._colors.shape[1])
        self._near.add(self._colors)
        self._binary = self._faiss.IndexBinaryFlat(PDQ_BITS)
        self._binary.add(self._hashes[self._good])

    def nearest(self, image: Any) -> Nearest | None:
        """The most similar protected picture, or None when the gallery is empty.

        A match by PDQ or by tiles is reported as such (score 1 - distance / 256, 1 - distance); otherwise the best
        correlation is. Raises GalleryError.
        """
        if not self._works:
            return None
        picture = opened(image)
        score, work = self.similar([picture])[0]
        if score <= self.correlation:
            views = _views(picture)
            matched = self._pdq_match(views) or self._tile_match(views)
            if matched is not None:
                return matched
        return Nearest(work, "correlation", score, self.correlation, score > self.correlation)

    def similar(self, pictures: Sequence[Image.Image]) -> list[tuple[float, str]]:
        """(correlation, work) of the protected picture that each one, or its mirror image, correlates with most."""
        views = np.stack([thumbnail(view) for picture in pictures for view in _views(picture)])
        scores, indexes = (found.reshape(-1, 2) for found in self._flat.search(views, 1))
        best = scores.argmax(axis=1)
        return [(float(scores[i, b]), self._works[int(indexes[i, b])]) for i, b in enumerate(best)]

    def toward(self, picture: Image.Image) -> tuple[float, str, np.ndarray]:
        """(correlation, work, thumbnail) of the protected picture that this one correlates with most; the thumbnail
        (see `thumbnail`) mirrored where the mirror image does. Raises GalleryError for an empty gallery.
        """
        if not self._works:
            raise GalleryError("The gallery holds no picture to compare with; add one.")
        views = np.stack([thumbnail(view) for view in _views(picture)])
        scores, indexes = self._flat.search(views, 1)
        best = int(scores[:, 0].argmax())
        index = int(indexes[best, 0])
        found = self._thumbnails[index].reshape(THUMBNAIL, THUMBNAIL, 3)
        return float(scores[best, 0]), self._works[index], (found[:, ::-1] if best else found).ravel().copy()

    def calibrate(self, noncopies: Iterable[tuple[str, Any]], fpr: float, source: str = "") -> None:
        """Sets `correlation` and `tile_distance` so that by either at most `fpr` of pictures like these, (name, path or
        picture), count as copies.

        They copy neither a protected picture nor each other, by declaration: what is counted is how near each one is
        to the nearest of all those. Raises BadRequestError for too few, GalleryError for an unreadable picture or one
        that a protected picture equals; nothing is changed then.
        """
        named = [(name, opened(picture)) for name, picture in noncopies]
        features = np.stack([thumbnail(p) for _, p in named]) if named else np.empty((0, 3 * THUMBNAIL**2), np.float32)
        others = self._faiss.IndexFlatIP(features.shape[1])
        others.add(features)
        nearest = []
        for place, (name, picture) in enumerate(named):
            score, work = self.similar([picture])[0] if self._works else (-1.0, "")
            if score > SAME:
                raise GalleryError(f"{name} is the protected picture of {work}, so it is no example of a non-copy.")
            found, indexes = others.search(np.stack([thumbnail(view) for view in _views(picture)]), 2)
            nearest.append(max([score, *found[(indexes != place) & (indexes >= 0)].tolist()]))
        value, interval = quantile("The gallery", nearest, fpr)
        if value <= 0.0:
            raise BadRequestError("These pictures are too plain to calibrate with; use such as are to be checked.")
        alike, tiles = quantile("The gallery", [-distance for distance in self._nearest_tiles(named)], fpr)
        about = {"fpr": fpr, "noncopies": len(named), "works": len(self), "source": source}
        self.correlation, self.tile_distance = value, -alike
        self.provenance = {**self.provenance, "correlation": {**about, "interval": list(interval)},
                           "tile_distance": {**about, "interval": [-tiles[1], -tiles[0]]}}  # fmt: skip

    def _nearest_tiles(self, named: Sequence[tuple[str, Image.Image]]) -> list[float]:
        """Each picture's least worst tile against the protected pictures and the other ones, it or its mirror image."""
        ones = np.stack([colors(picture) for _, picture in named])
        found = []
        for place, (_, picture) in enumerate(named):
            rest = np.concatenate([self._colors, np.delete(ones, place, axis=0)])
            found.append(min(float(worst_tile(colors(view), rest).min()) for view in _views(picture)))
        return found

    def _pdq_match(self, views: Sequence[Image.Image]) -> Nearest | None:
        hashed = [bits for bits, quality in map(pdq, views) if quality >= PDQ_QUALITY]
        if not hashed or not self._good.any():
            return None
        distances, indexes = self._binary.search(np.stack(hashed), 1)
        best = int(distances[:, 0].argmin())
        if int(distances[best, 0]) > self.pdq_distance:
            return None
        work = self._works[int(np.flatnonzero(self._good)[int(indexes[best, 0])])]
        return Nearest(work, "pdq", 1.0 - int(distances[best, 0]) / PDQ_BITS, 1.0 - self.pdq_distance / PDQ_BITS, True)

    def _tile_match(self, views: Sequence[Image.Image]) -> Nearest | None:
        if self.tile_distance <= 0.0:
            return None
        distance, place = min(self._worst_tiles(view) for view in views)
        if distance >= self.tile_distance:
            return None
        return Nearest(self._works[place], "tiles", 1.0 - distance, 1.0 - self.tile_distance, True)

    def _worst_tiles(self, view: Image.Image) -> tuple[float, int]:
        """(distance, place) of the protected picture whose worst tile is least unlike this one's."""
        reduced = colors(view)
        _, places = self._near.search(reduced[None], min(CANDIDATES, len(self._works)))
        distances = worst_tile(reduced, self._colors[places[0]])
        best = int(distances.argmin())
        return float(distances[best]), int(places[0, best])

    def save(self, folder: Path) -> None:
        """Writes features and ids, not the pictures, into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "features.npz", thumbnails=self._thumbnails, hashes=self._hashes, good=self._good,
                 colors=self._colors)  # fmt: skip
        data = {"format": FORMAT, "correlation": self.correlation, "pdq_distance": self.pdq_distance,
                "tile_distance": self.tile_distance, "provenance": self.provenance,
                "works": self._works}  # fmt: skip
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        part = folder / "gallery.json.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / "gallery.json")

    @classmethod
    def load(cls, folder: Path) -> "Gallery":
        """A saved gallery. Raises GalleryError when it can't be read."""
        folder = Path(folder)
        try:
            data = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"its format isn't {FORMAT}")
            gallery = cls(data["correlation"], data["pdq_distance"], data["tile_distance"])
            with np.load(folder / "features.npz", allow_pickle=False) as features:
                gallery._thumbnails, gallery._hashes = features["thumbnails"], features["hashes"]
                gallery._good, gallery._colors = features["good"], features["colors"]
            gallery._works, gallery.provenance = list(data["works"]), dict(data.get("provenance", UNCALIBRATED))
            gallery._check()
            gallery._index()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError,
                EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
            raise GalleryError(f"{folder} isn't a saved gallery ({error}); save it again.") from None
        return gallery


class _Row(NamedTuple):
    """One protected picture's features."""

    work: str
    thumbnail: np.ndarray
    bits: np.ndarray
    quality: int
    colors: np.ndarray


def _rows(work: str, source: Any) -> list[_Row]:
    """The features of a picture's frames, without those that equal one before. Raises GalleryError."""
    rows: list[_Row] = []
    try:
        for image in open_frames(source):
            feature = thumbnail(image)
            if feature.any() and all(float(feature @ row.thumbnail) <= SAME for row in rows):
                rows.append(_Row(work, feature, *pdq(image), colors(image)))
    except UNREADABLE as error:
        raise _unreadable(source, error) from None
    if not rows:
        raise GalleryError(f"The picture of {work} is one flat color, which can't be protected; remove it.")
    return rows


def _views(picture: Image.Image) -> list[Image.Image]:
    """A picture and its mirror image."""
    return [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
