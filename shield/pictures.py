"""Pictures as a viewer shows them, and what a broken file can raise while it is read."""

import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps

# Pillow's decoders let more through than OSError.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
              OverflowError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError)


def open_image(source: Path | str | BinaryIO | Image.Image) -> Image.Image:
    """A picture in RGB as a viewer shows it: turned upright by its EXIF tag, transparent parts on white.

    Raises:
        Exceptions of UNREADABLE: The file can't be read.
    """
    if not isinstance(source, Image.Image):
        with Image.open(source) as image:
            return open_image(image)
    upright: Any = ImageOps.exif_transpose(source)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layers = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def picture_files(folder: Path | str) -> tuple[list[Path], list[Path]]:
    """The pictures in a folder and the folders in it, by their endings, and the files that are none; both sorted."""
    known = Image.registered_extensions()
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in known]
    return pictures, [path for path in files if path.suffix.lower() not in known]
