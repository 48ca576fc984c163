"""Cheap pictures of what a trajectory is heading for: the predicted clean latent, through one linear map to color.

The channels of an autoencoder's latent are nearly linear in the mean color of the patch that they stand for, so one
(C + 1, 3) matrix, fitted once for each autoencoder by least squares on decodes of smooth latents, shows a step for the
price of a matrix product. It loses what is finer than one latent pixel (8 x 8 pixels of the picture) and all texture.
A "decode" preview is the autoencoder's own picture of the latent, reduced first to at most SMALL x SMALL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from shield.errors import BadRequestError
from shield.hooks.forward import Forward
from shield.model.autoencoders import latent_channels, pixels_of, unpacked
from shield.model.fingerprint import model_sha256
from shield.model.prediction import converted

PREVIEWS = ("linear", "decode")
PICTURES, SIDE, SPREAD = 24, 16, 0.75
CELLS = (1, 2, 3, 4, 6, 8)  # from one flat color to busy
SMALL = 32

_fitted: dict[str, "Preview"] = {}


@dataclass(frozen=True)
class Preview:
    """`weights` (C + 1, 3) give the color, 0 to 1, of a latent pixel and a constant 1. `explained` is the share of the
    colors' variance in the decodes that the map reproduces (R squared); trust no preview where it is far below 1.
    """

    weights: Tensor
    explained: float

    def pictures(self, latents: Tensor) -> list[Image.Image]:
        """One picture for each of (B, C, H, W), W x H pixels."""
        return as_pictures(self.colors(latents.float().cpu()))

    def colors(self, latents: Tensor) -> Tensor:
        """(B, H, W, 3), about 0 to 1, of (B, C, H, W) in float32 on the CPU; differentiable."""
        return _with_constant(latents) @ self.weights


def preview_of(pipe: Any) -> Preview:
    """The map of the pipeline's autoencoder, fitted when first asked for. Raises BadRequestError."""
    if pipe.vae is None:
        raise BadRequestError(f"Previews need an autoencoder, and this {type(pipe).__name__} has none (vae).")
    key = model_sha256(pipe.vae)
    if key not in _fitted:
        with torch.inference_mode(False):  # tensors of inference mode have no slope
            _fitted[key] = _fit(pipe)
    return _fitted[key]


def _fit(pipe: Any) -> Preview:
    latents = _smooth_latents(latent_channels(pipe))
    colors = torch.cat([adaptive_avg_pool2d(decoded(pipe, part), SIDE) for part in latents.split(4)])
    given = _with_constant(latents).flatten(0, 2).double()
    wanted = colors.permute(0, 2, 3, 1).flatten(0, 2).double()
    if not wanted.isfinite().all():
        raise BadRequestError(
            f"The pipeline's autoencoder gives no numbers in {pipe.vae.dtype}, so no preview can be fitted; load it in "
            "float32 or bfloat16."
        )
    weights = torch.linalg.lstsq(given, wanted).solution
    left = (given @ weights - wanted).pow(2).sum() / (wanted - wanted.mean(0)).pow(2).sum()
    return Preview(weights.float(), 1.0 - float(left))


def _smooth_latents(channels: int) -> Tensor:
    """(PICTURES, C, SIDE, SIDE): noise of a few cells, made smooth. The same ones every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = (torch.randn(1, channels, c, c, generator=generator) for i in range(PICTURES) for c in (CELLS[i % 6],))
    return torch.cat([SPREAD * interpolate(noise, size=(SIDE, SIDE), mode="bicubic") for noise in coarse])


def _with_constant(latents: Tensor) -> Tensor:
    """(B, H, W, C + 1)."""
    last = latents.permute(0, 2, 3, 1)
    return torch.cat([last, last.new_ones(*last.shape[:3], 1)], dim=3)


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor) -> Tensor:
    """(B, 3, height, width) float32 from 0 to 1, on the CPU: what the autoencoder makes of (B, C, H, W) latents."""
    with _without_overflow(pipe.vae):
        pixels = pixels_of(pipe, latents.float())
    return (pixels.float().cpu() / 2 + 0.5).clamp(0.0, 1.0)


def small_pictures(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """The "decode" preview of (B, C, H, W)."""
    size = (min(latents.shape[2], SMALL), min(latents.shape[3], SMALL))
    return as_pictures(decoded(pipe, adaptive_avg_pool2d(latents.float(), size)).permute(0, 2, 3, 1))


def as_pictures(colors: Tensor) -> list[Image.Image]:
    """Pictures of (B, H, W, 3) colors from 0 to 1."""
    return [Image.fromarray(pixels) for pixels in (colors.clamp(0.0, 1.0) * 255).round().to(torch.uint8).numpy()]


@contextmanager
def _without_overflow(vae: Any) -> Iterator[None]:
    """Some autoencoders (SDXL's) overflow in float16 and say so; they decode in float32, as in their own pipelines."""
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)


def clean_latents(pipe: Any, forward: Forward, prediction: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) float32: the clean latent that `prediction` of this step stands for. `size`: the picture's height
    and width. Raises TraceError where it doesn't stand for one.
    """
    levels = (forward.prediction, "x0", forward.signal, forward.noise)
    return unpacked(pipe, converted(prediction.float(), *levels, forward.latents.float()), size)
