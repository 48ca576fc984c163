"""Pictures as a viewer shows them, the pictures of a folder, and what a broken file can raise while it is read."""

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from shield.errors import GalleryError, reason_of
from shield.protected.pixels import as_rgb, from_array

# Pillow's decoders let more through than OSError.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Formats whose further images are shown, too. Of others (MPO, ICO, PSD) they are sizes, layers and depth maps.
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "FLI", "HEIF")
# Pillow runs Ghostscript for the first one, and only knows the names of the others.
NOT_READ = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC")
_log = logging.getLogger("shield")
_REDUCED_OR_MASK = 0b101  # of TIFF's NewSubfileType


def open_image(source: Any, most_pixels: int | None = None) -> Image.Image:
    """A picture in RGB as a viewer shows it: turned upright by its EXIF tag, transparent parts on white, in sRGB.

    Of an animation and of a file with several pages it is the first frame; `open_frames` gives all.

    Args:
        source: A path, a binary file, a PIL image, an array or a tensor (see shield/protected/pixels.py).
        most_pixels: How large a file may be, looked at before it is decoded.

    Raises:
        Exceptions of UNREADABLE: The file can't be read, or is too large.
    """
    if isinstance(source, Image.Image):
        return _shown(source)
    if hasattr(source, "__array__"):
        return from_array(source)
    with _opened(source) as image:
        return _decoded(image, most_pixels)


def open_frames(source: Any, most_pixels: int | None = None) -> Iterator[Image.Image]:
    """Every frame of an animation, every page of a file, or the one picture that there is; else as `open_image`."""
    if isinstance(source, Image.Image):
        yield from _frames(source, most_pixels)
    elif hasattr(source, "__array__"):
        yield from_array(source)
    else:
        with _opened(source) as image:
            yield from _frames(image, most_pixels)


def _frames(image: Image.Image, most_pixels: int | None) -> Iterator[Image.Image]:
    """The frames of an opened file, which is left where it was."""
    count, before = frame_count(image), image.tell()
    try:
        for number in range(count):
            if count > 1:
                image.seek(number)
            if number == 0 or not _is_reduced(image):
                yield _decoded(image, most_pixels)
    finally:
        if count > 1:
            image.seek(before)


def frame_count(image: Image.Image) -> int:
    """How many frames or pages of an opened file are pictures of their own."""
    return getattr(image, "n_frames", 1) if image.format in ANIMATED else 1


def picture_files(folder: Path | str) -> list[Path]:
    """The pictures in a folder and the folders in it, linked ones too, by their endings, sorted. None for no folder.

    Other files and hidden pictures are left out, and a warning of the logger `shield` names them.

    Raises:
        GalleryError: The folder, or one in it, can't be read.
    """
    known = readable_endings()
    if not Path(folder).is_dir():
        return []
    try:
        files = sorted(_files(Path(folder), set()))
    except OSError as error:
        raise GalleryError(f"The folder {folder} can't be read as a whole: {reason_of(error)}.") from None
    pictures, others = [], []
    for path in files:
        is_picture, is_hidden = path.suffix.lower() in known, _is_hidden(path.relative_to(folder))
        if is_picture and not is_hidden:
            pictures.append(path)
        elif is_picture or not is_hidden:
            others.append(path.relative_to(folder).as_posix())
    if others:
        _log.warning("%s", _left_out(folder, others))
    return pictures


def _left_out(folder: Path | str, names: list[str]) -> str:
    named = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    heic = any(name.lower().endswith((".heic", ".heif")) for name in names)
    return f"{len(names)} files in {folder} aren't taken for pictures and are left out: {named}" + (
        " (for .heic: pip install pillow-heif)" if heic else ""
    )


def readable_endings() -> set[str]:
    """The endings of file names, in lower case, whose pictures can be read here."""
    _register_plug_ins()
    return {ending for ending, form in Image.registered_extensions().items() if form in _formats()}


def _opened(source: Any) -> Image.Image:
    _register_plug_ins()
    return Image.open(source, formats=_formats())


def _formats() -> list[str]:
    Image.init()
    return [form for form in Image.OPEN if form not in NOT_READ]


@lru_cache(maxsize=1)
def _register_plug_ins() -> None:
    """HEIC, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _decoded(image: Image.Image, most_pixels: int | None) -> Image.Image:
    if most_pixels is not None and image.width * image.height > most_pixels:
        raise ValueError(f"it has {image.width} x {image.height} pixels, and may have {most_pixels:,}")
    image.load()
    return _shown(image)


def _shown(image: Image.Image) -> Image.Image:
    try:
        upright: Any = ImageOps.exif_transpose(image)
    except UNREADABLE:  # a damaged tag, which viewers pass over; a damaged picture fails again
        upright = image.copy()
    upright.format = image.format
    return as_rgb(upright)


def _is_reduced(image: Any) -> bool:
    """Whether a page of a TIFF is a small version of another one, or its mask."""
    return image.format == "TIFF" and bool(image.tag_v2.get(254, 0) & _REDUCED_OR_MASK)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _files(folder: Path, above: set[Path]) -> Iterator[Path]:
    """Files of a folder and, but for circles of links, the folders in it; without those that macOS keeps beside."""
    above = above | {folder.resolve()}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if not entry.is_dir():
                # A dangling link is named by whoever reads it; a pipe would keep him waiting.
                if not entry.name.startswith("._") and (entry.is_file() or entry.is_symlink()):
                    yield path
            elif path.resolve() not in above and entry.name not in (".git", "__MACOSX"):
                yield from _files(path, above)
