"""Edits that hide a protected picture from a comparison of thumbnails: what a gallery has to see through."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

Edit = Callable[[Image.Image, Sequence[Image.Image]], Image.Image]
"""An edit of a picture; the second argument are pictures that others put beside it."""


def _framed(share: float) -> Edit:
    def edit(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
        out = Image.new("RGB", one.size, "white")
        margins = (round(share * one.width), round(share * one.height))
        out.paste(one.resize((one.width - 2 * margins[0], one.height - 2 * margins[1])), margins)
        return out

    return edit


def _cropped(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    x, y = round(0.15 * one.width), round(0.15 * one.height)
    return one.crop((x, y, one.width - x, one.height - y)).resize(one.size, Image.Resampling.BICUBIC)


def _shifted(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(one), round(0.1 * one.width), axis=1))


def _hued(turn: int) -> Edit:
    def edit(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
        hue, saturation, value = one.convert("HSV").split()
        turned = Image.fromarray(np.asarray(hue) + np.uint8(turn))
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return edit


def _in_a_corner(share: float) -> Edit:
    def edit(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
        out, size = beside[0].resize(one.size), (round(share * one.width), round(share * one.height))
        out.paste(one.resize(size), (0, one.height - size[1]))
        return out

    return edit


def _in_a_collage(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    out, size = Image.new("RGB", one.size), (one.width // 2, one.height // 2)
    for place, each in enumerate((beside[0], one, beside[1], beside[2])):
        out.paste(each.resize(size), (place % 2 * size[0], place // 2 * size[1]))
    return out


def _from_the_side(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    """The upper edge is 20 % of the width shorter on either side. Pillow wants the map from the result to the
    source.
    """
    w, h = one.size
    lands = [(0.2 * w, 0.0), (0.8 * w, 0.0), (float(w), float(h)), (0.0, float(h))]
    rows, right = [], []
    for (x, y), (u, v) in zip(lands, [(0, 0), (w, 0), (w, h), (0, h)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    laid = np.linalg.solve(np.array(rows, np.float64), np.array(right, np.float64)).tolist()
    return one.transform(one.size, Image.Transform.PERSPECTIVE, laid, Image.Resampling.BICUBIC, fillcolor=(128,) * 3)


def _compressed(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    file = io.BytesIO()
    one.save(file, "JPEG", quality=20)
    return Image.open(file).convert("RGB")


def _noisy(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    pixels = np.asarray(one, np.float32)
    noise = np.random.default_rng(0).normal(0, 40, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


EDITS: dict[str, Edit] = {
    "frame 3 %": _framed(0.03),
    "frame 6 %": _framed(0.06),
    "frame 10 %": _framed(0.1),
    "shift 10 %": _shifted,
    "crop 30 %": _cropped,
    "turn 15 degrees": lambda one, beside: one.rotate(15, Image.Resampling.BICUBIC),
    "hue 60 degrees": _hued(43),
    "hue 180 degrees": _hued(128),
    "hue 270 degrees": _hued(191),
    "mirror": lambda one, beside: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "corner at 50 %": _in_a_corner(0.5),
    "corner at 70 %": _in_a_corner(0.7),
    "2 x 2 collage": _in_a_collage,
    "perspective 20 %": _from_the_side,
    "JPEG quality 20": _compressed,
    "blur 4 px": lambda one, beside: one.filter(ImageFilter.GaussianBlur(4)),
    "noise 40": _noisy,
}
