"""What is protected, as a user names it: a folder, a gallery's name, a list of pictures; names and registries."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from shield.errors import GalleryError
from shield.home import gallery_folder
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery


def gallery_at(place: Path | str) -> Gallery:
    """A saved gallery, by its folder or by its name in the user's data folder, or the pictures of a folder.

    Raises:
        GalleryError: There is no such folder, or it can't be read.
    """
    folder = gallery_folder(place)
    if not folder.is_dir():
        raise GalleryError(f"There is no folder of protected pictures, and no saved gallery, at {folder}.")
    return Gallery.load(folder) if (folder / "gallery.json").is_file() else Gallery.from_folder(folder)


def gallery_of(pictures: Sequence[Path | str | Image.Image]) -> Gallery:
    """A gallery of these pictures. A file is named by its stem, with its folder's name where two files share one, and a
    picture without a file by its place in the list, counted from 1.

    Raises:
        GalleryError: One of them can't be read, or has no structure.
    """
    gallery = Gallery()
    stems = [Path(one).stem for one in pictures if not isinstance(one, Image.Image)]
    gallery.add([(_name(one, place, stems), one) for place, one in enumerate(pictures, start=1)])
    return gallery


def concepts_of(given: Sequence[str | Concept]) -> Concepts:
    """A screen for these: each a Concept, a registry's file (NAME.toml), or a name.

    Raises:
        RegistryError: A file can't be read, or two concepts share a name.
    """
    found: list[Concept] = []
    for one in given:
        if isinstance(one, Concept):
            found.append(one)
        else:
            found += Concepts.load(one).concepts if Path(one).suffix == ".toml" else [Concept(one)]
    return Concepts(found)


def _name(picture: Path | str | Image.Image, place: int, stems: Sequence[str]) -> str:
    if isinstance(picture, Image.Image):
        return f"picture {place}"
    path = Path(picture)
    return path.stem if stems.count(path.stem) == 1 else f"{path.absolute().parent.name}/{path.stem}"
