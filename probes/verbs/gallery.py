"""Builds galleries of protected pictures, and compares pictures with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from probes.paths import takes_paths
from shield.errors import GalleryError
from shield.home import home
from shield.protected.gallery import Gallery
from shield.protected.given import gallery_at
from shield.types import Nearest


@takes_paths
def build_gallery(
    folder: Path, out: Path | None = None, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Gallery, Path]:
    """A gallery of a folder's pictures, and where it was saved: ``out``, else under the folder's name in the user's
    data folder, by which every verb finds it.

    Raises:
        GalleryError: The folder holds no picture, or some that can't be protected.
    """
    gallery = Gallery.from_folder(folder, progress=progress)
    out = out or home() / "galleries" / folder.resolve().name
    gallery.save(out)
    return gallery, out


@takes_paths
def check_images(images: Sequence[Path], gallery: str | Gallery) -> dict[Path, Nearest]:
    """The protected picture that each of these is most like.

    Raises:
        GalleryError: The gallery is empty or can't be read, or a picture can't.
    """
    known = gallery if isinstance(gallery, Gallery) else gallery_at(gallery)
    found = {image: known.nearest(image) for image in images}
    if None in found.values():
        raise GalleryError(f"The gallery {gallery} holds no picture to compare with; add one.")
    return {image: nearest for image, nearest in found.items() if nearest is not None}
