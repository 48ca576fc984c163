"""What is protected, on disk: a registry of concepts and a gallery of pictures that visitors can change.

    concepts.toml    a registry as shield/protected/concepts.py reads it
    works.json       [{"work": name, "file": "pictures/<sha256>.png"}], one entry for each picture
    pictures/        every picture as PNG, named by its own hash, so that no name of a visitor's is ever a path
    features/        a Gallery of those pictures, made again when it isn't of exactly these

Every change is checked as a whole first, then written to a temporary name and renamed, then swapped in; a generation
that is running keeps what it began with.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from probes.runs.folder import write_json
from shield.errors import GalleryError, RegistryError
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery
from shield.protected.pictures import UNREADABLE, frame_count, open_image, picture_files

KINDS = ("character", "person", "brand", "artist", "artwork", "landmark", "style")
FORMATS = ("PNG", "JPEG", "WEBP")
LARGEST = 20 * 2**20
MOST_PIXELS = 40_000_000
MOST_TOGETHER = 400_000_000  # pixels of what is added at once
MOST_PICTURES = 20_000
LONGEST_NAME = 120
MOST_SPELLINGS = 50


class Protected:
    """Concepts and gallery of one folder. `seed` fills a folder that holds nothing yet: concepts, (work, file) pairs.

    Raises RegistryError or GalleryError for a folder that can't be read.
    """

    def __init__(self, folder: Path, concepts: Sequence[Concept] = (), works: Sequence[tuple[str, Path]] = ()) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        if not (folder / "concepts.toml").exists():
            self._write_concepts(concepts)
        self.concepts = Concepts.load(folder / "concepts.toml") if _says_something(folder) else Concepts(())
        self.works: list[dict[str, str]] = []
        self._gallery: Gallery | None = None
        if (folder / "works.json").exists():
            self.works = _read_works(folder)
        else:
            self.works = [{"work": work, "file": self._stored(file.read_bytes())} for work, file in works]
            write_json(folder / "works.json", self.works)

    @property
    def gallery(self) -> Gallery:
        """The pictures' features, made when first asked for. Raises GalleryError for a picture that has gone bad."""
        with self._lock:
            if self._gallery is None:
                self._gallery = self._read_gallery()
            return self._gallery

    def names(self) -> list[str]:
        """The works of the gallery, each once, in order."""
        return list(dict.fromkeys(entry["work"] for entry in self.works))

    def picture(self, work: str) -> Path | None:
        """The first picture of a work."""
        return next((self.folder / entry["file"] for entry in self.works if entry["work"] == work), None)

    def concept(self, name: str) -> Concept:
        """Raises RegistryError for an unknown name."""
        found = next((c for c in self.concepts.concepts if c.name == name), None)
        if found is None:
            raise RegistryError(f"There is no concept {name[:80]!r}.")
        return found

    def save_concept(self, concept: Concept, replaces: str | None = None) -> None:
        """Adds a concept, or puts it in the place of the one named `replaces`. Raises RegistryError."""
        with self._lock:
            concept = checked_concept(concept)
            before = self.concepts.concepts
            if replaces is not None:
                # What the form doesn't show stays.
                concept = replace(concept, indirect=concept.indirect or self.concept(replaces).indirect)
                after = tuple(concept if c.name == replaces else c for c in before)
            else:
                after = (*before, concept)
            self._swap_concepts(after)

    def remove_concept(self, name: str) -> None:
        """Raises RegistryError for an unknown name."""
        with self._lock:
            self.concept(name)
            self._swap_concepts(tuple(c for c in self.concepts.concepts if c.name != name))

    def merge(self, concepts: Sequence[Concept], works: Sequence[tuple[str, Path]]) -> tuple[int, int]:
        """Adds all of these or none: concepts in place of those of the same name, (work, picture) pairs that are new.

        Returns how many of each were new or changed. Raises RegistryError, GalleryError.
        """
        with self._lock:
            after = {concept.name: concept for concept in self.concepts.concepts}
            changed = [checked_concept(one) for one in concepts if after.get(one.name) != one]
            after |= {concept.name: concept for concept in changed}
            Concepts(tuple(after.values()))  # refuses names and aliases that two concepts share
            there = {(entry["work"], entry["file"]) for entry in self.works}
            named = [(_checked_name(work, "work", GalleryError), file) for work, file in works]
            fresh = [(work, file) for work, file in named if (work, _name_of(_png(checked_picture(file)))) not in there]
            added = self._add(fresh) if fresh else 0
            self._swap_concepts(tuple(after.values()))
            return len(changed), added

    def add_pictures(self, work: str, files: Sequence[Path]) -> int:
        """Adds pictures of a work: all of them or, when one is refused, none. Raises GalleryError."""
        name = _checked_name(work, "work", GalleryError)
        if not files:
            raise GalleryError(f"Choose at least one picture of {name}.")
        return self._add([(name, Path(file)) for file in files])

    def add_works(self, files: Sequence[Path]) -> int:
        """Adds each picture as a work of its own, named after its file: all or none. Raises GalleryError."""
        if not files:
            raise GalleryError("Choose at least one picture.")
        return self._add([(_checked_name(Path(file).stem, "work", GalleryError), Path(file)) for file in files])

    def _add(self, named: Sequence[tuple[str, Path]]) -> int:
        with self._lock:
            check_sizes([file for _, file in named], MOST_PICTURES - len(self.works))
            gallery, added = self._copied_gallery(), list[dict[str, str]]()
            try:
                gallery.add(self._kept(named, added))
            except BaseException:
                self._forget(added)
                raise
            self._swap_works([*self.works, *added], gallery)
            return len(added)

    def _kept(
        self, named: Sequence[tuple[str, Path]], added: list[dict[str, str]]
    ) -> Iterator[tuple[str, Image.Image]]:
        """Each picture once it is stored, one at a time in memory; `added` gets its entry."""
        for work, file in named:
            picture = checked_picture(file)
            added.append({"work": work, "file": self._stored(_png(picture))})
            yield work, picture

    def _forget(self, gone: Iterable[dict[str, str]]) -> None:
        """Removes the files of these entries that no work has."""
        still = {entry["file"] for entry in self.works}
        for file in {entry["file"] for entry in gone} - still:
            (self.folder / file).unlink(missing_ok=True)

    def rename_work(self, work: str, name: str) -> None:
        """Raises GalleryError for an unknown work or a name that can't be used."""
        with self._lock:
            name = _checked_name(name, "work", GalleryError)
            self._known(work)
            self._swap_works([{**e, "work": name} if e["work"] == work else e for e in self.works], None)

    def remove_work(self, work: str) -> int:
        """Removes a work's pictures and returns how many there were. Raises GalleryError for an unknown work."""
        with self._lock:
            gone = self._known(work)
            gallery = self._copied_gallery()
            gallery.remove(work)
            self._swap_works([entry for entry in self.works if entry["work"] != work], gallery)
            self._forget(gone)
            return len(gone)

    def _known(self, work: str) -> list[dict[str, str]]:
        found = [entry for entry in self.works if entry["work"] == work]
        if not found:
            raise GalleryError(f"The gallery holds no work {work[:80]!r}.")
        return found

    def _read_gallery(self) -> Gallery:
        """The stored features if they are of exactly these pictures, else new ones."""
        try:
            if _read_json(self.folder / "features" / "of.json") == self.works:
                return Gallery.load((self.folder / "features").absolute())
        except GalleryError:
            pass
        gallery = Gallery()
        gallery.add([(entry["work"], self.folder / entry["file"]) for entry in self.works])
        self._store_gallery(gallery)
        return gallery

    def _store_gallery(self, gallery: Gallery) -> None:
        gallery.save(self.folder / "features")
        write_json(self.folder / "features" / "of.json", self.works)

    def _copied_gallery(self) -> Gallery:
        """One to change, while pictures that are being drawn are still compared with the other."""
        with TemporaryDirectory() as folder:
            self.gallery.save(Path(folder))
            return Gallery.load(Path(folder))

    def _stored(self, data: bytes) -> str:
        name = _name_of(data)
        part = (self.folder / name).with_suffix(".part")
        part.write_bytes(data)
        part.replace(self.folder / name)
        return name

    def _swap_concepts(self, concepts: Sequence[Concept]) -> None:
        screen = Concepts(concepts)  # refuses names and aliases that two concepts share
        self._write_concepts(concepts)
        self.concepts = screen

    def _write_concepts(self, concepts: Sequence[Concept]) -> None:
        part = self.folder / "concepts.toml.part"
        part.write_text(as_toml(concepts), encoding="utf-8")
        part.replace(self.folder / "concepts.toml")

    def _swap_works(self, works: list[dict[str, str]], gallery: Gallery | None) -> None:
        """`gallery` None: its features are made again when they are needed."""
        write_json(self.folder / "works.json", works)
        self.works, self._gallery = works, gallery
        if gallery is not None:
            self._store_gallery(gallery)


def _name_of(data: bytes) -> str:
    return f"pictures/{hashlib.sha256(data).hexdigest()[:32]}.png"


def _png(picture: Image.Image) -> bytes:
    """The pixels alone, without what else an uploaded file holds (metadata, appended data)."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def check_sizes(files: Sequence[Path], most: int) -> None:
    """Raises GalleryError for pictures that are too many or too large, each or together; nothing is decoded."""
    if len(files) > most:
        raise GalleryError(
            f"{len(files)} pictures were given, and this page takes {most} more; it holds at most {MOST_PICTURES:,}."
        )
    pixels = 0
    for file in files:
        with _opened(file) as image:
            pixels += image.width * image.height
    if pixels > MOST_TOGETHER:
        raise GalleryError(
            f"These {len(files)} pictures have {pixels // 10**6} million pixels together; at most "
            f"{MOST_TOGETHER // 10**6} million can be taken at once: add fewer at a time."
        )


def checked_picture(file: Path) -> Image.Image:
    """The picture, in RGB. Raises GalleryError for one that is too large, of another type, or can't be read."""
    with _opened(file) as image:
        try:
            image.load()
            return open_image(image)
        except UNREADABLE:
            raise _no_picture(file) from None


def _opened(file: Path) -> Image.Image:
    """A picture that isn't decoded yet. Raises GalleryError for what can't be taken."""
    try:
        size = file.stat().st_size
        image = Image.open(file, formats=FORMATS) if size <= LARGEST else None
        frames = frame_count(image) if image is not None else 1
    except UNREADABLE:
        raise _no_picture(file) from None
    if image is None:
        raise GalleryError(f"{file.name} has {size / 2**20:.0f} MB; a picture may have {LARGEST // 2**20} MB.")
    if frames == 1 and image.width * image.height <= MOST_PIXELS:
        return image
    image.close()
    if frames > 1:
        raise GalleryError(f"{file.name} is an animation of {frames} frames; add those to protect as pictures.")
    raise GalleryError(
        f"{file.name} is {image.width} x {image.height} pixels large; at most "
        f"{MOST_PIXELS // 10**6} million pixels can be taken."
    )


def _no_picture(file: Path) -> GalleryError:
    kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return GalleryError(f"{file.name} can't be read as a {kinds} picture; nothing was added.")


def checked_concept(concept: Concept) -> Concept:
    """The concept without empty or repeated spellings. Raises RegistryError for what is missing or too long."""
    name = _checked_name(concept.name, "concept", RegistryError)
    if concept.kind not in KINDS:
        raise RegistryError(f"A kind is one of {', '.join(KINDS)}; {str(concept.kind)[:80]!r} was given.")
    lists = {key: _lines(getattr(concept, key), key) for key in ("aliases", "descriptions", "allow", "indirect")}
    substitute = " ".join(concept.substitute.split())[:LONGEST_NAME]
    return Concept(name=name, kind=concept.kind, substitute=substitute, **lists)


def _checked_name(name: str, what: str, error: type[GalleryError] | type[RegistryError]) -> str:
    text = " ".join(str(name or "").split())
    if not text:
        raise error(f"A {what} needs a name.")
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise error(f"A {what}'s name has at most {LONGEST_NAME} printable characters; {text[:40]!r}… was given.")
    return text


def _lines(given: Iterable[str], key: str) -> tuple[str, ...]:
    lines = tuple(dict.fromkeys(text for line in given if (text := " ".join(str(line).split()))))
    if len(lines) > MOST_SPELLINGS or any(len(line) > 2 * LONGEST_NAME for line in lines):
        raise RegistryError(f"A concept has at most {MOST_SPELLINGS} {key} of {2 * LONGEST_NAME} characters each.")
    return lines


def as_toml(concepts: Sequence[Concept]) -> str:
    """A registry that Concepts.load reads back to the same concepts."""
    tables = []
    for concept in concepts:
        values = {f.name: getattr(concept, f.name) for f in fields(Concept)}
        lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value]
        tables.append("[[concept]]\n" + "\n".join(lines) + "\n")
    return "\n".join(tables)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's escapes are TOML's; TOML also wants DEL escaped, and half a surrogate pair is no text in either.
    text = str(value).encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _says_something(folder: Path) -> bool:
    """An emptied registry is no error here; Concepts.load would say that it holds none."""
    return bool((folder / "concepts.toml").read_text(encoding="utf-8").strip())


def _read_json(path: Path) -> Any:
    """None for a file that is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_works(folder: Path) -> list[dict[str, str]]:
    path = folder / "works.json"
    try:
        works = [{"work": str(entry["work"]), "file": str(entry["file"])} for entry in _read_json(path)]
    except (KeyError, TypeError):
        raise GalleryError(f"{path} isn't a list of works and files; restore or remove it.") from None
    outside = [e["file"] for e in works if not (folder / e["file"]).resolve().is_relative_to(folder.resolve())]
    if outside:
        raise GalleryError(f"{path} names a file outside of its folder ({outside[0]}); remove the entry.")
    return works


def pictures_in(folder: Path) -> list[tuple[str, Path]]:
    """The works of a folder of pictures, to begin with: (name, file) pairs. Raises GalleryError."""
    files = picture_files(folder)
    if not files:
        raise GalleryError(f"{folder} holds no pictures (.png, .jpg, .webp and what else Pillow reads).")
    return [(file.relative_to(folder).with_suffix("").as_posix(), file) for file in files]


def testbed_seed() -> tuple[list[Concept], list[tuple[str, Path]]]:
    """The testbed's characters and styles as concepts, and its works as pictures. Raises WeightsError."""
    from probes.testbed.manifest import load_manifest

    manifest = load_manifest()
    concepts = []
    for item in (*manifest.characters(), *manifest.styles()):
        name, *aliases = item.aliases or (item.id,)
        kind = "style" if item.kind == "style" else "character"
        noun = aliases[0].split()[-1] if aliases else ""
        concepts.append(
            Concept(
                name, kind, tuple(aliases), (item.description,) if item.description else (), f"a {noun}" if noun else ""
            )
        )
    works = [(_title(item), item.file) for item in manifest.works() if item.file is not None and item.exposures]
    return concepts, works


def _title(item: Any) -> str:
    """A work's caption is its name; the id keeps two of one name apart."""
    return f"{item.captions[0]} ({item.id})" if item.captions else item.id
