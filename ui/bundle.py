"""What is protected as one .zip file: to keep, to hand on, and to add to what another page protects.

    concepts.toml        the registry
    works.json           [{"work": name, "file": "pictures/<sha256>.png"}]
    pictures/            each picture

The same layout as the folder (ui/protected.py) without its features, which are made again.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shield.errors import GalleryError, RegistryError, reason_of
from shield.protected.concepts import Concept, Concepts
from ui.protected import MOST_PICTURES, Protected
from ui.uploads import MOST_UNPACKED

REGISTRY, WORKS = "concepts.toml", "works.json"
BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError)


def export(store: Protected, target: Path) -> Path:
    """Writes everything that is protected to a .zip file at `target`; returns it."""
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as packed:  # PNG is packed already
        packed.write(store.folder / REGISTRY, REGISTRY)
        works = store.works
        packed.writestr(WORKS, json.dumps(works, indent=1, ensure_ascii=False))
        for file in dict.fromkeys(entry["file"] for entry in works):
            packed.write(store.folder / file, file)
    part.replace(target)
    return target


def merge(store: Protected, archive: Path) -> tuple[int, int]:
    """Adds an exported file: its concepts, in place of those of the same name, and the pictures that aren't there yet.

    Returns:
        How many concepts and how many pictures were added or replaced; all of them, or none where one is refused.

    Raises:
        GalleryError, RegistryError: The file is none, or something in it can't be taken.
    """
    with TemporaryDirectory() as place:
        try:
            with zipfile.ZipFile(archive) as packed:
                concepts, works = _unpacked(packed, Path(place))
        except BROKEN as error:
            said = f"{archive.name} can't be read as a .zip archive ({reason_of(error)}); nothing was added."
            raise GalleryError(said) from None
        return store.merge(concepts, works)


def _unpacked(packed: zipfile.ZipFile, into: Path) -> tuple[tuple[Concept, ...], list[tuple[str, Path]]]:
    """The concepts, and each picture with its work's name as a file of ours: no name in the archive is ever a path."""
    held = {one.filename: one for one in packed.infolist()}
    if not {REGISTRY, WORKS} & held.keys():
        raise GalleryError(f"This is no exported file: it has neither {REGISTRY} nor {WORKS}; nothing was added.")
    if sum(one.file_size for one in held.values()) > MOST_UNPACKED:
        raise GalleryError(f"The archive unpacks to more than {MOST_UNPACKED >> 20} MB; nothing was added.")
    works = []
    for number, (work, name) in enumerate(_entries(packed, held)):
        target = into / f"{number}.png"
        with packed.open(held[name]) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy)
        works.append((work, target))
    return _concepts(packed, held, into), works


def _entries(packed: zipfile.ZipFile, held: dict[str, Any]) -> list[tuple[str, str]]:
    if WORKS not in held:
        return []
    try:
        found = [(str(entry["work"]), str(entry["file"])) for entry in json.loads(packed.read(WORKS))]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise GalleryError(f"Its {WORKS} isn't a list of works and files; nothing was added.") from None
    missing = next((name for _, name in found if name not in held), None)
    if missing is not None or len(found) > MOST_PICTURES:
        what = f"names {missing!r}, which isn't in it" if missing is not None else "names too many pictures"
        raise GalleryError(f"Its {WORKS} {what}; nothing was added.")
    return found


def _concepts(packed: zipfile.ZipFile, held: dict[str, Any], into: Path) -> tuple[Concept, ...]:
    text = packed.read(REGISTRY) if REGISTRY in held else b""
    if not text.strip():
        return ()
    (into / REGISTRY).write_bytes(text)
    try:
        return tuple(Concepts.load(into / REGISTRY).concepts)
    except RegistryError as error:
        raise RegistryError(f"{str(error).replace(str(into / REGISTRY), REGISTRY)} Nothing was added.") from None
