"""Pixels of every kind as 8-bit RGB: 16 bits, floats, CMYK, color profiles, transparency, arrays and tensors."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

RESAMPLED = 0.05  # how far interpolation lets floats leave their range
_PROFILED = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB ": "LAB"}  # color space of a profile -> Pillow's mode


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, by its color profile if it has one, its transparent parts on white. May be itself,
    without its `info`.

    Raises:
        ValueError: It holds values that are no numbers.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return _without_profile(image, profile)
    layers = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    shown = Image.new("RGB", layers.size, "white")
    shown.paste(_without_profile(layers.convert("RGB"), profile), mask=layers.getchannel("A"))
    return shown


def _eight_bits(image: Image.Image) -> Image.Image:
    """A gray image of 16 or 32 bits, or of floats, in 8 bits."""
    levels = np.asarray(image).astype(np.float64)
    if not np.isfinite(levels).all():
        raise ValueError("it holds values that are no numbers")
    low, high = _range(levels)
    gray = ((levels - low) / (high - low) * 255.0).clip(0, 255).round().astype(np.uint8)
    clear = image.info.get("transparency")
    return Image.fromarray(gray if clear is None else np.where(levels == clear, 255, gray).astype(np.uint8))


def _range(levels: np.ndarray) -> tuple[float, float]:
    """Which values are black and white: those of the usual depths, else the least and the greatest."""
    low, high = float(levels.min()), float(levels.max())
    is_whole = bool((levels == np.round(levels)).all())
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    if low >= 0.0 and high <= 65535.0 and is_whole:
        return 0.0, 255.0 if high <= 255.0 else 65535.0
    return low, high if high > low else low + 1.0


def _without_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """In sRGB. A profile that can't be read, or is of other colors than the image's, is left out as viewers do."""
    if profile:
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if not (image.mode == "RGB" and "sRGB" in (given.profile.profile_description or "")):
                same = image.convert(_PROFILED[given.profile.xcolor_space])
                image = ImageCms.profileToProfile(same, given, _srgb(), outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError):
            pass
    plain = image if image.mode == "RGB" else image.convert("RGB")
    plain.info = {}  # the profile has been applied
    return plain


def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")


def from_array(given: Any) -> Image.Image:
    """An image of an array (H, W), (H, W, C) or (C, H, W), or a tensor (C, H, W), of 1, 3 or, as whole numbers, 4
    channels.

    Floats lie between 0 and 1, -1 and 1, or 0 and 255; whole numbers have 8 or 16 bits.

    Raises:
        ValueError: It is something else, for instance latents.
    """
    array = given.detach().float().cpu().numpy() if _is_wide(given) else np.asarray(given)
    while array.ndim > 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and _is_channels_first(array, hasattr(given, "detach")):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"an array of shape {list(array.shape)} is no picture of 1, 3 or 4 channels")
    if array.shape[2] == 4 and array.dtype.kind not in "ui":
        raise ValueError("floats of four channels are latents, not a picture")
    pixels = np.ascontiguousarray(_bytes(array))
    return as_rgb(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _is_wide(given: Any) -> bool:
    """Whether it is a tensor of floats, which NumPy can't always read (bfloat16, a gradient, another device)."""
    return hasattr(given, "detach") and given.is_floating_point()


def _is_channels_first(array: np.ndarray, is_tensor: bool) -> bool:
    last, first = array.shape[2] in (1, 3, 4), array.shape[0] in (1, 3, 4)
    return first and (is_tensor or not last)


def _bytes(array: np.ndarray) -> np.ndarray:
    """Values as 0 to 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "bui" and array.dtype.kind != "f":
        raise ValueError(f"values of type {array.dtype} are no picture")
    if not np.isfinite(values := array.astype(np.float64)).all():
        raise ValueError("it holds values that are no numbers")
    low, high = float(values.min()), float(values.max())
    if array.dtype.kind == "f" and low >= -1.0 - RESAMPLED and high <= 1.0 + RESAMPLED:
        values = (values / 2 + 0.5 if low < -RESAMPLED else values) * 255.0
    elif array.dtype.kind == "b":
        values = values * 255.0
    elif low < 0.0 or high > 65535.0 or (array.dtype.kind == "f" and high > 255.0):
        raise ValueError(f"values from {low:g} to {high:g} are no picture")
    elif array.dtype == np.uint16 or high > 255.0:
        values = values / 257.0
    return values.clip(0, 255).round().astype(np.uint8)
