"""Protected pictures, and the one nearest to a finished picture.

What makes two pictures alike is the descriptors' business (shield/protected/descriptors/): colors place by place,
which is always there, SSCD where its model was fetched, and local features where OpenCV is installed, which find parts
of pictures. A gallery uses all that are there, the cheapest first, up to the first that finds a copy; its answer says
which one it was, and where in the picture the protected one lies. A picture that isn't a copy may still be near.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from PIL import Image

from shield.errors import BadRequestError, GalleryError
from shield.home import gallery_folder
from shield.protected.descriptors import DESCRIPTORS, CopyLimit, Descriptor, Match, Pixels, available
from shield.protected.descriptors.pixels import (
    CORRELATION,
    NEAR_CORRELATION,
    PDQ_BITS,
    PDQ_MATCH,
    PDQ_QUALITY,
    THUMBNAIL,
    UNCALIBRATED_TILES,
    calibrated_pixels,
    colors,
    pdq,
    thumbnail,
    views,
    worst_tile,
)
from shield.protected.frames import frames, opened
from shield.protected.gallery_files import part_name, reading, restore, write_gallery
from shield.protected.pictures import picture_files
from shield.thresholds import quantile
from shield.types import Nearest

__all__ = ["PDQ_MATCH", "PDQ_QUALITY", "THUMBNAIL", "Gallery", "colors", "opened", "pdq", "thumbnail", "worst_tile"]

BATCH = 32  # pictures
BATCH_PIXELS = 16_000_000  # or fewer, where pictures are large: they are in memory together
UNCALIBRATED = {
    "correlation": "the default, calibrated on nothing; run `diffshield calibrate-gallery`",
    "tile_distance": "the default, with a correlation above .6; run `diffshield calibrate-gallery`",
    "pdq_distance": "Meta's recommendation for PDQ (The TMK+PDQF Video-Hashing Algorithm, 2019)",
    "sscd": "the default, calibrated on nothing",
    "local": "the default, calibrated on nothing",
}
_log = logging.getLogger("shield")


class Gallery:
    """Protected pictures by work. `correlation` above which, `pdq_distance` up to which, and `tile_distance` below
    which (0: a careful default) a picture is a copy by its pixels. The other descriptors have `limits` of their own.
    `provenance` says where all these come from. `descriptors`: names of DESCRIPTORS, by default all that are installed.
    """

    def __init__(
        self,
        correlation: float = CORRELATION,
        pdq_distance: int = PDQ_MATCH,
        tile_distance: float = 0.0,
        descriptors: Sequence[str] | None = None,
    ) -> None:
        if not 0.0 < correlation <= 1.0:
            raise BadRequestError(f"A correlation threshold lies between 0 and 1; {correlation:g} was given.")
        self.descriptors = _made(available() if descriptors is None else descriptors)
        pixels = self.descriptors["pixels"]
        assert isinstance(pixels, Pixels)
        self.pixels: Pixels = pixels
        self.correlation, self.pdq_distance, self.tile_distance = correlation, pdq_distance, tile_distance
        self.provenance: Mapping[str, Any] = dict(UNCALIBRATED)
        self._works: list[str] = []
        self._lock = RLock()  # a look needs works and features of one moment

    def __getstate__(self) -> dict[str, Any]:
        """What `save` writes, because an index can't be copied."""
        with self._lock:
            return {"about": self._about(), "arrays": {name: one.arrays() for name, one in self.descriptors.items()}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._take(state["about"], list(state["arrays"]))
        for name, descriptor in self.descriptors.items():
            descriptor.restore(state["arrays"][name], len(self))

    def __len__(self) -> int:
        return len(self._works)

    @property
    def works(self) -> tuple[str, ...]:
        """Ids of the protected works, one per picture, in the order they were added."""
        return tuple(self._works)

    @property
    def correlation(self) -> float:
        """The correlation of thumbnails above which a picture is a copy."""
        return self.pixels.limits["correlation"].copy

    @correlation.setter
    def correlation(self, value: float) -> None:
        near = min(self.pixels.limits["correlation"].near, NEAR_CORRELATION, value)
        self.pixels.limits["correlation"] = CopyLimit(value, near)

    @property
    def pdq_distance(self) -> int:
        """The Hamming distance of PDQ up to which a picture is a copy."""
        return self.pixels.pdq_distance

    @pdq_distance.setter
    def pdq_distance(self, value: int) -> None:
        self.pixels.pdq_distance = value
        self.pixels.limits["pdq"] = CopyLimit(1.0 - value / PDQ_BITS, 1.0 - value / PDQ_BITS)

    @property
    def tile_distance(self) -> float:
        """The distance of the worst tile below which a picture is a copy; 0: uncalibrated, a careful default."""
        return self.pixels.tile_distance

    @tile_distance.setter
    def tile_distance(self, value: float) -> None:
        self.pixels.tile_distance = value
        limit = 1.0 - (value or UNCALIBRATED_TILES)
        self.pixels.limits["tiles"] = CopyLimit(limit, limit)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        correlation: float = CORRELATION,
        progress: Callable[[int, int], None] | None = None,
        parts: Path | None = None,
    ) -> "Gallery":
        """Every picture in a folder and the folders in it, by its path from there without the ending.

        Files that aren't named as pictures are left out, and a warning of the logger `shield` names them. Of an
        animation, or of a file with several pages, every frame is protected.

        Args:
            folder: Where the pictures are.
            correlation: See the class.
            progress: Called with (files done, files).
            parts: A folder for what is finished, from which the next call with it goes on; it may be removed then.

        Raises:
            GalleryError: The folder holds no picture, or some that can't be protected.
        """
        root, paths = Path(folder), picture_files(folder)
        if not root.is_dir():
            raise GalleryError(f"There is no folder of pictures at {folder}.")
        if not paths:
            raise GalleryError(f"{folder} holds no pictures (.png, .jpg, .webp and what else Pillow reads).")
        gallery, refused = cls(correlation), list[GalleryError]()
        for start in range(0, len(paths), BATCH):
            files = paths[start : start + BATCH]
            named = [(path.relative_to(root).with_suffix("").as_posix(), path) for path in files]
            if not (parts and gallery._take_part(parts, named)):
                part, broken = gallery._described(named)
                refused += broken
                if parts and not broken:
                    gallery._keep_part(parts, named, part)
                gallery._append(part)
            if progress is not None:
                progress(min(start + BATCH, len(paths)), len(paths))
        if refused:
            said = " ".join(str(error) for error in refused[:3]) + (" ..." if len(refused) > 3 else "")
            raise GalleryError(f"{len(refused)} of {len(paths)} pictures in {folder} can't be protected: {said}")
        return gallery

    def add(self, pictures: Iterable[tuple[str, Any]]) -> None:
        """Adds (work id, path, PIL picture, array or tensor) pairs: all of them or, when one is refused, none.

        Raises GalleryError for an unreadable picture or one without structure (a single color can't be told from
        another).
        """
        rows, refused = self._described(pictures)
        if refused:
            raise refused[0]
        self._append(rows)

    def _described(self, pictures: Iterable[tuple[str, Any]]) -> tuple[list["_Row"], list[GalleryError]]:
        """(work, features by descriptor) of every frame, and what is wrong with the pictures that have none."""
        rows, waiting, refused = list[_Row](), list[tuple[str, Image.Image]](), list[GalleryError]()
        for work, source in pictures:
            try:
                waiting += [(work, frame) for frame in frames(work, source)]
            except GalleryError as error:
                refused.append(error)
            if len(waiting) >= BATCH or sum(w.width * w.height for _, w in waiting) >= BATCH_PIXELS:
                rows += self._rows_of(waiting)
                waiting = []
        return rows + self._rows_of(waiting), refused

    def _rows_of(self, named: Sequence[tuple[str, Image.Image]]) -> list["_Row"]:
        images = [image for _, image in named]
        described = {name: one.describe(images) for name, one in self.descriptors.items()} if images else {}
        return [(work, {name: found[n] for name, found in described.items()}) for n, (work, _) in enumerate(named)]

    def _append(self, rows: Sequence["_Row"]) -> None:
        with self._lock:
            for name, descriptor in self.descriptors.items():
                descriptor.add([features[name] for _, features in rows])
            self._works += [work for work, _ in rows]

    def _keep_part(self, parts: Path, named: Sequence[tuple[str, Path]], rows: Sequence["_Row"]) -> None:
        parts.mkdir(parents=True, exist_ok=True)
        held = Gallery(descriptors=list(self.descriptors))
        held._append(rows)
        held.save(parts / part_name(named, self.descriptors))

    def _take_part(self, parts: Path, named: Sequence[tuple[str, Path]]) -> bool:
        """Whether these files' features were kept, and now are in the gallery."""
        folder = parts / part_name(named, self.descriptors)
        if not (folder / "gallery.json").is_file():
            return False
        held = Gallery.load(folder)
        for name, descriptor in self.descriptors.items():
            descriptor.join(held.descriptors[name])
        self._works += held._works
        return True

    def remove(self, work: str) -> int:
        """Removes a work's pictures and returns how many there were. Raises GalleryError for an unknown work."""
        with self._lock:
            keep = np.array([w != work for w in self._works], dtype=bool)
            if keep.all():
                raise GalleryError(f"The gallery holds no work {work!r}.")
            self._works = [w for w in self._works if w != work]
            for descriptor in self.descriptors.values():
                descriptor.keep(keep)
            return int((~keep).sum())

    def nearest(self, image: Any) -> Nearest | None:
        """The most similar protected picture, or None when the gallery is empty.

        That is the first that a descriptor takes for a copy; else what is furthest into what counts as near; else the
        best correlation of thumbnails. Raises GalleryError.
        """
        if not self._works:
            return None
        picture = opened(image)
        with self._lock:
            return self._nearest(picture)

    def _nearest(self, picture: Image.Image) -> Nearest | None:
        said: list[Nearest] = []
        candidates: list[int] = []
        for name, descriptor in self.descriptors.items():
            found = descriptor.find(picture, candidates)
            if found is None:
                continue
            said.append(self.judged(name, found))
            if said[-1].copied:
                return said[-1]
            candidates += found.candidates
        return max(said, key=_nearness) if said else None

    def judged(self, name: str, found: Match) -> Nearest:
        """What a descriptor found, by its limits."""
        limit = self.descriptors[name].limits[found.metric]
        copied = found.score >= limit.copy if found.metric == "pdq" else found.score > limit.copy
        near = not copied and found.score > limit.near
        region = found.region if copied or near else None
        return Nearest(
            self._works[found.place], found.metric, found.score, limit.copy, copied, near, name, region, limit.near
        )

    def similar(self, pictures: Sequence[Image.Image]) -> list[tuple[float, str]]:
        """(correlation, work) of the protected picture that each one, or its mirror image, correlates with most."""
        with self._lock:
            return [(score, self._works[place]) for score, place in self.pixels.correlated(pictures)]

    def toward(self, picture: Image.Image) -> tuple[float, str, np.ndarray]:
        """(correlation, work, thumbnail) of the protected picture that this one correlates with most; the thumbnail
        (see `thumbnail`) mirrored where the mirror image does. Raises GalleryError for an empty gallery.
        """
        rows = np.stack([thumbnail(view) for view in views(picture)])
        with self._lock:
            if not self._works:
                raise GalleryError("The gallery holds no picture to compare with; add one.")
            scores, indexes = self.pixels.flat.search(rows, 1)
            best = int(scores[:, 0].argmax())
            index = int(indexes[best, 0])
            found = self.pixels.thumbnails[index].reshape(THUMBNAIL, THUMBNAIL, 3)
            return float(scores[best, 0]), self._works[index], (found[:, ::-1] if best else found).ravel().copy()

    def calibrate(self, noncopies: Iterable[tuple[str, Any]], fpr: float, source: str = "") -> None:
        """Sets `correlation` and `tile_distance` so that by either at most `fpr` of pictures like these, (name, path or
        picture), count as copies; limits of other descriptors are raised where these pictures exceed them, never
        lowered. `provenance["false_hits"]` says how many of these count as copies afterwards, by all together.

        They copy neither a protected picture nor each other, by declaration: what is counted is how near each one is
        to the nearest of all those. Raises BadRequestError for too few, GalleryError for an unreadable picture or one
        that a protected picture equals; nothing is changed then.
        """
        named = [(name, opened(picture)) for name, picture in noncopies]
        made = calibrated_pixels(self.pixels, named, self._works, fpr)
        about = {"fpr": fpr, "noncopies": len(named), "works": len(self), "source": source}
        self.correlation, self.tile_distance = made["correlation"][0], -made["tile_distance"][0]
        low, high = made["tile_distance"][1]
        self.provenance = {
            **self.provenance,
            "correlation": {**about, "interval": list(made["correlation"][1])},
            "tile_distance": {**about, "interval": [-high, -low]},
        }
        self._raise_limits([picture for _, picture in named], fpr, about)
        hits = sum(found is not None and found.copied for found in (self.nearest(picture) for _, picture in named))
        counted = {"hits": hits, "of": len(named), "upper": _upper_bound(hits, len(named)), "source": source}
        self.provenance = {**self.provenance, "false_hits": counted}

    def _raise_limits(self, pictures: Sequence[Image.Image], fpr: float, about: Mapping[str, Any]) -> None:
        """Raises the limits of the other descriptors to what is exceeded by at most `fpr` of these pictures."""
        for name, descriptor in self.descriptors.items():
            limit = descriptor.limits.get(name)
            if limit is None or not len(descriptor):
                continue
            found = [descriptor.find(picture) for picture in pictures]
            value, interval = quantile(name, [-1.0 if one is None else one.score for one in found], fpr)
            if value > limit.copy:
                descriptor.limits[name] = CopyLimit(value, max(limit.near, value - (limit.copy - limit.near)))
                self.provenance = {**self.provenance, name: {**about, "interval": list(interval)}}

    def save(self, folder: Path) -> None:
        """Writes features and ids, not the pictures, into `folder`."""
        with self._lock:
            write_gallery(Path(folder), self.descriptors, self._about())

    def _about(self) -> dict[str, Any]:
        """All but the features."""
        limits = {name: list(one.limits[name][:2]) for name, one in self.descriptors.items() if name in one.limits}
        return {
            "correlation": self.correlation,
            "pdq_distance": self.pdq_distance,
            "tile_distance": self.tile_distance,
            "provenance": self.provenance,
            "limits": limits,
            "descriptors": list(self.descriptors),
            "works": list(self._works),
        }

    def _take(self, about: Mapping[str, Any], descriptors: Sequence[str]) -> None:
        """Becomes what `_about` told, with these descriptors, without its features."""
        Gallery.__init__(self, about["correlation"], about["pdq_distance"], about["tile_distance"], descriptors)
        self._works = list(about["works"])
        self.provenance = dict(about.get("provenance", UNCALIBRATED))
        for name, (copy, near) in about["limits"].items():
            if name in self.descriptors:
                self.descriptors[name].limits[name] = CopyLimit(float(copy), float(near))

    @classmethod
    def load(cls, folder: Path | str) -> "Gallery":
        """A saved gallery, by its folder or by the name of one in the user's data folder (shield/home.py).

        It has those of its descriptors that are installed here; a warning names the others.

        Raises GalleryError when it can't be read.
        """
        folder = gallery_folder(folder)
        with reading(folder) as about:
            gallery = cls.__new__(cls)
            gallery._take(about, _usable(about["descriptors"]))
            restore(folder, gallery.descriptors, len(gallery._works))
            gallery._check()
        return gallery

    def _check(self) -> None:
        """ValueError unless what was loaded is what save writes."""
        if not all(isinstance(work, str) for work in self._works):
            raise ValueError("its ids aren't texts")
        limits = [value for one in self.descriptors.values() for limit in one.limits.values() for value in limit[:2]]
        if not np.isfinite([self.tile_distance, self.pdq_distance, *limits]).all():
            raise ValueError("its thresholds are no numbers")


_Row = tuple[str, dict[str, Any]]
"""One protected picture: its work, and its features by descriptor."""


def _made(names: Sequence[str]) -> dict[str, Descriptor]:
    """Empty descriptors of these names, the cheapest first, pixels always among them. Raises BadRequestError."""
    unknown = [name for name in names if name not in DESCRIPTORS]
    if unknown:
        raise BadRequestError(f"There is no descriptor {unknown[0]!r}; choose of {', '.join(DESCRIPTORS)}.")
    return {name: one() for name, one in DESCRIPTORS.items() if name in names or name == "pixels"}


def _usable(names: Sequence[str]) -> list[str]:
    missing = [name for name in names if name in DESCRIPTORS and not DESCRIPTORS[name].available()]
    if missing:
        names_missing = " and ".join(missing)
        _log.warning("A gallery was saved with %s, which isn't installed here: it compares without.", names_missing)
    return [name for name in names if name not in missing]


def _nearness(found: Nearest) -> tuple[bool, float]:
    """Near before not near; among the near how far beyond their limit, else correlations of thumbnails first."""
    if not found.near:
        return False, float(found.metric == "correlation")
    return True, (found.score - found.near_threshold) / max(1.0 - found.near_threshold, 1e-6)


def _upper_bound(hits: int, count: int) -> float:
    """95 % upper bound of a rate of which `hits` of `count` were seen (Clopper and Pearson)."""
    from scipy.stats import beta

    return 1.0 if hits == count else float(beta.ppf(0.95, hits + 1, count - hits))
