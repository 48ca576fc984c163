"""What was uploaded, as pictures: files as they are, those of a folder and of a .zip archive without what is none."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from shield.errors import GalleryError, reason_of
from ui.protected import LARGEST

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_IN_ARCHIVE = 1000
MOST_UNPACKED = 400 * 2**20


@contextmanager
def pictures_of(files: Sequence[Path], *, folder: bool = False) -> Iterator[list[Path]]:
    """The pictures of an upload inside the block, by name. Raises GalleryError.

    Args:
        files: What was uploaded. An archive stands for the pictures in it.
        folder: They are all that a folder held, so that what is no picture is left out and not refused.
    """
    with TemporaryDirectory() as place:
        found = list[Path]()
        for number, file in enumerate(files):
            if file.suffix.casefold() == ".zip":
                found += _unpacked(file, Path(place) / str(number))
            elif not folder or _is_picture(file.name):
                found.append(file)
        if files and not found:
            raise GalleryError(f"There are no pictures ({', '.join(SUFFIXES)}) in what was chosen.")
        yield sorted(found, key=lambda file: file.name) if len(found) > len(files) or folder else found


def _is_picture(name: str) -> bool:
    """By its name alone; not what macOS puts beside a picture."""
    path = PurePosixPath(name)
    return path.suffix.casefold() in SUFFIXES and not path.name.startswith(".") and not name.startswith("__MACOSX")


def _unpacked(archive: Path, into: Path) -> list[Path]:
    """The archive's pictures as files; two of one name keep apart, and no name leads out of `into`."""
    try:
        with zipfile.ZipFile(archive) as packed:
            held = [one for one in packed.infolist() if not one.is_dir() and _is_picture(one.filename)]
            _check(archive, held)
            found = []
            for number, one in enumerate(held):
                target = into / str(number) / PurePosixPath(one.filename.replace("\\", "/")).name
                target.parent.mkdir(parents=True)
                with packed.open(one) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
                found.append(target)
            return found
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise GalleryError(
            f"{archive.name} can't be read as a .zip archive ({reason_of(error)}); nothing was added."
        ) from None


def _check(archive: Path, held: Sequence[zipfile.ZipInfo]) -> None:
    """Raises GalleryError for more or larger pictures than are taken; by what the archive says, before unpacking.

    A member that unpacks to more than it says is one that zipfile refuses.
    """
    if len(held) > MOST_IN_ARCHIVE:
        raise GalleryError(
            f"{archive.name} holds {len(held)} pictures; at most {MOST_IN_ARCHIVE} are taken at once: split it."
        )
    large = next((one for one in held if one.file_size > LARGEST), None)
    if large is not None:
        raise GalleryError(f"{large.filename} has {large.file_size >> 20} MB; a picture may have {LARGEST >> 20} MB.")
    if sum(one.file_size for one in held) > MOST_UNPACKED:
        raise GalleryError(f"{archive.name} unpacks to more than {MOST_UNPACKED >> 20} MB: split it.")
