"""Prompt files that visitors upload, with the pictures that they name: kept, so that a run can go on.

    .inputs/<sha256>/...     one upload; its names are those of the files, below that folder

A prompt file may name pictures, and whoever writes one could name any file of this machine: what doesn't lie in the
upload's own folder is refused.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

from probes.errors import PromptFileError
from probes.inputs.prompts import FORMATS, each_prompt
from shield.errors import GalleryError, reason_of
from ui.protected import LARGEST, check_sizes, checked_picture
from ui.uploads import MOST_IN_ARCHIVE, MOST_UNPACKED, SUFFIXES

ACCEPTED = (*FORMATS, *SUFFIXES, ".zip")
FOLDER = ".inputs"
NAMED = "prompts.csv"


class Inputs:
    """Uploads below the folder `root` of the run folders."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def holds(self, path: Path) -> bool:
        """Whether this is a file of an upload."""
        return path.resolve().is_relative_to(self.folder.resolve()) and path.is_file()

    def keep(self, files: Sequence[Path]) -> tuple[Path, int]:
        """Keeps one upload; returns its prompt file and how many prompts it has.

        Args:
            files: One prompt file, with the pictures that it names beside it; or pictures alone, each of which is named
                by its prompt. An archive stands for what is in it.

        Raises:
            PromptFileError: There is no prompt file or are several, or it can't be used.
            GalleryError: A picture or archive can't be used.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(mkdtemp(prefix="part-", dir=self.folder))
        try:
            prompts = _laid_out(files, part)
            count = _checked(part / prompts, part)
            kept = self.folder / _digest(part)
            if not kept.exists():
                part.rename(kept)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return kept / prompts, count


def _laid_out(files: Sequence[Path], into: Path) -> Path:
    """Copies everything below `into`; returns where in it the prompts are."""
    for file in files:
        if file.suffix.casefold() == ".zip":
            _unpack(file, into)
        elif file.suffix.casefold() in ACCEPTED:
            _size(file.name, file.stat().st_size)
            shutil.copyfile(file, into / file.name)
        else:
            raise PromptFileError(f"{file.name} is none of {', '.join(ACCEPTED)}.")
    held = sorted(path.relative_to(into) for path in into.rglob("*") if path.is_file())
    pictures = [path for path in held if path.suffix.casefold() in SUFFIXES]
    prompts = [path for path in held if path.suffix.casefold() in FORMATS]
    if len(prompts) > 1:
        raise PromptFileError(f"One prompt file is needed; {', '.join(map(str, prompts[:4]))} were given.")
    if not held:
        raise PromptFileError(f"A prompt file is needed ({', '.join(FORMATS)}), or pictures named by their prompts.")
    check_sizes([into / path for path in pictures], MOST_IN_ARCHIVE)
    for path in pictures:
        checked_picture(into / path)
    return prompts[0] if prompts else _from_names(pictures, into)


def _from_names(pictures: Sequence[Path], into: Path) -> Path:
    with open(into / NAMED, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("prompt", "picture"))
        writer.writerows((path.stem.replace("_", " "), path.as_posix()) for path in pictures)
    return Path(NAMED)


def _checked(prompts: Path, folder: Path) -> int:
    """How many prompts there are. Raises PromptFileError, also for a picture outside of the folder."""
    count = 0
    for prompt in each_prompt(prompts):
        count += 1
        if prompt.reference is not None and not prompt.reference.is_relative_to(folder.resolve()):
            raise PromptFileError(f"{prompts.name} names a picture that wasn't uploaded with it, beside {prompt.id}.")
    return count


def count_prompts(file: Path) -> int:
    """How many prompts a file has. Raises PromptFileError."""
    return sum(1 for _ in each_prompt(file))


def _unpack(archive: Path, into: Path) -> None:
    """Every prompt file and picture of an archive under its own name. Raises GalleryError."""
    try:
        with zipfile.ZipFile(archive) as packed:
            held = list(_wanted(packed))
            if len(held) > MOST_IN_ARCHIVE or sum(one.file_size for one, _ in held) > MOST_UNPACKED:
                raise GalleryError(
                    f"{archive.name} has more than {MOST_IN_ARCHIVE} files or {MOST_UNPACKED >> 20} MB in it: split it."
                )
            for one, name in held:
                _size(name.name, one.file_size)
                target = into / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(one) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise GalleryError(f"{archive.name} can't be read as a .zip archive ({reason_of(error)}).") from None


def _wanted(packed: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The members that are prompts or pictures, by names that don't lead out of the folder."""
    for one in packed.infolist():
        name = PurePosixPath(one.filename.replace("\\", "/"))
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
        if one.is_dir() or hidden or name.is_absolute() or name.suffix.casefold() not in (*FORMATS, *SUFFIXES):
            continue
        yield one, name


def _size(name: str, size: int) -> None:
    if size > LARGEST:
        raise GalleryError(f"{name} has {size >> 20} MB; a file may have {LARGEST >> 20} MB.")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]
