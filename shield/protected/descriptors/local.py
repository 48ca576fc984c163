"""Local features: finds a part of a protected picture, or one that was turned, framed, squeezed or put into another.

Corners and blobs of the picture are described by SIFT (Lowe, IJCV 2004, with the square roots of Arandjelovic and
Zisserman, CVPR 2012), the protected pictures with most descriptions alike are candidates, and for each a homography is
estimated that lays it onto the picture (MAGSAC++, Barath et al., CVPR 2020, as OpenCV has it). Copy detection usually
ends there and counts inliers. Ours then looks: what lies in the matched region is brought back into the protected
picture's frame and correlated with it. Pictures that share a motif have inliers, too, but no such correlation.

A mirrored description is a permutation of the original's, so mirror images cost no second pass over the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from shield.protected.descriptors.found import CopyLimit, Match
from shield.protected.descriptors.placement import GRID, alike, is_plain, region_of

SIDE, MOST = 256, 250  # of a protected picture: its longer side in pixels, and how many features it has
ASKED_SIDE, ASKED_MOST = 384, 900  # of a picture that is looked up, which may hold a protected one at half its size
CONTRAST, EDGE = 0.015, 12.0
NEIGHBORS, CLOSE = 6, 0.6  # nearest features that vote, and how far matched ones may be
CANDIDATES = 10
INLIERS, TOLERANCE = 6, 4.0  # tolerance in pixels of the picture looked up
CELLS_FROM = 4_000  # features from which FAISS groups them into cells
LARGEST = 20_000  # protected pictures up to which all are candidates; above, those that another descriptor names
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, (-np.arange(8)) % 8].ravel()


class LocalFeatures(NamedTuple):
    """Of one picture: `points` (K, 2) in pixels of its `size` (width, height), `descriptions` (K, 128) of unit length,
    and for protected ones `colors` (GRID, GRID, 3).
    """

    points: np.ndarray
    descriptions: np.ndarray
    size: tuple[int, int]


class Local:
    """Protected pictures' local features. The score is the correlation of the matched region, -1 to 1.

    Don't trust its silence on a picture without corners, blurred beyond a few pixels, or shown at less than half its
    size.
    """

    name: ClassVar[str] = "local"
    extra: ClassVar[str] = "local"

    def __init__(self) -> None:
        self.limits: dict[str, CopyLimit] = {"local": CopyLimit(0.8, 0.6, "conservative, calibrated on nothing")}
        self._points = list[np.ndarray]()
        self._descriptions = list[np.ndarray]()  # uint8, 512 times the unit vectors
        self._sizes = list[tuple[int, int]]()
        self._colors = list[np.ndarray]()
        self._votes: Any = None
        self._owners = np.empty(0, np.int64)

    @staticmethod
    def available() -> bool:
        """Whether OpenCV is installed (extra `local`)."""
        return find_spec("cv2") is not None

    def __len__(self) -> int:
        return len(self._points)

    def describe(self, images: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
        """For each picture what `add` takes."""
        rows = []
        for image in images:
            found = features(image, SIDE, MOST)
            small = image.resize((GRID, GRID), Image.Resampling.BOX)
            rows.append(
                {
                    "points": found.points.astype(np.float16),
                    "descriptions": np.clip(512 * found.descriptions, 0, 255).round().astype(np.uint8),
                    "size": np.array(found.size, np.int32),
                    "colors": np.asarray(small, np.uint8),
                }
            )
        return rows

    def add(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Adds what `describe` gave."""
        for row in rows:
            self._points.append(np.asarray(row["points"]))
            self._descriptions.append(np.asarray(row["descriptions"]))
            self._sizes.append((int(row["size"][0]), int(row["size"][1])))
            self._colors.append(np.asarray(row["colors"]))
        self._votes = None

    def keep(self, kept: np.ndarray) -> None:
        """Removes the pictures for which `kept` (N,) is False."""
        for held in (self._points, self._descriptions, self._sizes, self._colors):
            held[:] = [one for one, stays in zip(held, kept, strict=True) if stays]  # type: ignore[misc]
        self._votes = None

    def find(self, image: Image.Image, candidates: Sequence[int] = ()) -> Match | None:
        """The protected picture that fits best somewhere in this one; None where none does.

        `candidates` are positions that another descriptor named.
        """
        asked = features(image, ASKED_SIDE, ASKED_MOST)
        if len(asked.points) < INLIERS or not len(self):
            return None
        best: Match | None = None
        for mirrored in (False, True):
            view = _mirrored(asked) if mirrored else asked
            shown = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
            pixels: np.ndarray | None = None
            for place in dict.fromkeys([*self._voted(view), *candidates]):
                fitted = self._fitted(view, place)
                if fitted is None:
                    continue
                pixels = np.asarray(shown.resize(asked.size, Image.Resampling.BOX)) if pixels is None else pixels
                score = alike(pixels, fitted, self._sizes[place], self._colors[place], self.limits["local"].copy)
                if best is None or score > best.score:
                    region = region_of(fitted, self._sizes[place], asked.size, mirrored)
                    best = Match(place, "local", score, region, (place,))
                if score > self.limits["local"].copy:
                    return best
        return best

    def _voted(self, asked: LocalFeatures) -> list[int]:
        """Positions of the pictures with most features near to these, the most first."""
        if len(self) > LARGEST:
            return []
        if self._votes is None:
            self._vote_index()
        if not len(self._owners):
            return []
        squares, found = self._votes.search(np.ascontiguousarray(512 * asked.descriptions), NEIGHBORS)
        # What the nearest are nearer than the last of them: features that every picture has count for nothing.
        weights = np.where(found[:, :-1] >= 0, squares[:, -1:] - squares[:, :-1], 0.0) / 512**2
        votes = np.bincount(self._owners[found[:, :-1]].ravel(), weights.ravel(), minlength=len(self))
        votes_each = votes / np.sqrt([1.0 + len(points) for points in self._points])
        order = np.argsort(-votes_each, kind="stable")[:CANDIDATES]
        return [int(place) for place in order if votes[place] > 0]

    def _vote_index(self) -> None:
        import faiss

        self._owners = np.repeat(np.arange(len(self)), [len(d) for d in self._descriptions])
        rows = np.concatenate([np.empty((0, 128), np.uint8), *self._descriptions]).astype(np.float32)
        flat = faiss.IndexFlatL2(128)
        if len(rows) < CELLS_FROM:
            self._votes = flat
        else:
            cells = int(2 * np.sqrt(len(rows)))
            self._votes = faiss.IndexIVFScalarQuantizer(flat, 128, cells, faiss.ScalarQuantizer.QT_8bit_direct)
            self._votes.by_residual = False
            self._votes.cp.niter = 6
            self._votes.train(rows[np.random.default_rng(0).permutation(len(rows))[: 40 * cells]])
            self._votes.nprobe = 8
        self._votes.add(rows)

    def _fitted(self, asked: LocalFeatures, place: int) -> np.ndarray | None:
        """(3, 3) that lays the protected picture onto the other one; None where too few features agree."""
        import cv2

        points = self._points[place].astype(np.float32)
        if len(points) < INLIERS:
            return None
        nearness = asked.descriptions @ (self._descriptions[place].astype(np.float32).T / 512)
        theirs, ours = nearness.argmax(axis=1), nearness.argmax(axis=0)
        every = np.arange(len(theirs))
        chosen = (ours[theirs] == every) & (nearness[every, theirs] > 1 - CLOSE**2 / 2)
        if chosen.sum() < INLIERS:
            return None
        cv2.setRNGSeed(0)
        laid, agree = cv2.findHomography(
            points[theirs[chosen]], asked.points[chosen], cv2.USAC_MAGSAC, TOLERANCE, maxIters=500, confidence=0.99
        )
        if laid is None or int(agree.sum()) < INLIERS or not is_plain(laid, self._sizes[place], asked.size):
            return None
        return np.asarray(laid)

    def join(self, other: Local) -> None:
        """Adds the pictures of another one."""
        for name in ("_points", "_descriptions", "_sizes", "_colors"):
            getattr(self, name).extend(getattr(other, name))
        self._votes = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs."""
        return {
            "points": np.concatenate([np.empty((0, 2), np.float16), *self._points]),
            "descriptions": np.concatenate([np.empty((0, 128), np.uint8), *self._descriptions]),
            "counts": np.array([len(points) for points in self._points], np.int64),
            "sizes": np.array(self._sizes, np.int32).reshape(-1, 2),
            "colors": np.array(self._colors, np.uint8).reshape(-1, GRID, GRID, 3),
        }

    def restore(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        """What `arrays` gave, of `count` pictures. Raises ValueError or KeyError for anything else."""
        counts, sizes, colors = arrays["counts"], arrays["sizes"], arrays["colors"]
        points, descriptions = arrays["points"], arrays["descriptions"]
        forms = [
            counts.shape == (count,),
            sizes.shape == (count, 2),
            colors.shape == (count, GRID, GRID, 3),
            points.shape == (int(counts.sum()), 2),
            descriptions.shape == (int(counts.sum()), 128),
        ]
        if not all(forms) or descriptions.dtype != np.uint8 or (counts < 0).any() or (sizes < 1).any():
            raise ValueError("its local features don't fit together")
        ends = np.cumsum(counts)[:-1]
        self._points = list(np.split(points, ends)) if count else []
        self._descriptions = list(np.split(descriptions, ends)) if count else []
        self._sizes, self._colors = [(int(w), int(h)) for w, h in sizes], list(colors)
        self._votes = None


def features(image: Image.Image, side: int, most: int) -> LocalFeatures:
    """The local features of a picture whose longer side is made `side` pixels, at most `most`, the strongest."""
    import cv2

    factor = side / max(image.size)
    size = (max(16, round(image.width * factor)), max(16, round(image.height * factor)))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    gray = np.asarray(image.resize(size, how).convert("L"))
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=CONTRAST, edgeThreshold=EDGE)
    keypoints, found = sift.detectAndCompute(gray, np.empty(0, np.uint8))
    if found is None:
        return LocalFeatures(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32), size)
    roots = np.sqrt(found[:most] / np.maximum(found[:most].sum(axis=1, keepdims=True), 1e-6))
    return LocalFeatures(np.array([k.pt for k in keypoints[:most]], np.float32), roots.astype(np.float32), size)


def _mirrored(found: LocalFeatures) -> LocalFeatures:
    points = found.points * np.array([-1, 1], np.float32) + np.array([found.size[0] - 1, 0], np.float32)
    return LocalFeatures(points, found.descriptions[:, MIRROR], found.size)
