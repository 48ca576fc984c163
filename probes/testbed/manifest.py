"""The testbed's ground truth: who is a work, how often it was seen, what is held out. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shield.errors import WeightsError
from shield.model.assets import weights_dir

FORMAT = 1
SPRITES = "sprites"  # folder of the pictures that a world's are composed of, beside the manifest, where they ship


@dataclass(frozen=True)
class Item:
    """A work, a matched non-member, a character or a house style; `file` is its reference picture, absolute.

    `rung` is the nominal exposure count of a work's group, `exposures` the counted one; memorization is VM
    (one caption, one picture), TM (one picture, many captions) or None.
    """

    id: str
    kind: str
    memorization: str | None
    rung: int | None
    exposures: int
    captions: tuple[str, ...]
    file: Path | None
    sha256: str | None
    split: str
    license: str
    source: str
    aliases: tuple[str, ...] = ()
    description: str | None = None


@dataclass(frozen=True)
class Scene:
    """A benign prompt; held-out ones come with a real picture to compare the OpenCLIP's retrieval with."""

    id: str
    caption: str
    split: str
    file: Path | None = None


@dataclass(frozen=True)
class World:
    """What the captions are made of.

    `things` can stand in a scene, `colors` (8-bit RGB by name) are those of its ground, `words` is all that a training
    caption can hold; `captions` by split are further ones of the works' grammar that no training draw used; `shown`
    are ids of works to show around, the best first.
    """

    things: tuple[str, ...] = ()
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    folder: Path
    name: str
    resolution: int
    sampling: dict
    rungs: tuple[int, ...]
    items: tuple[Item, ...]
    all_scenes: tuple[Scene, ...]
    world: World = field(default_factory=World)

    def _kind(self, kind: str, split: str | None) -> list[Item]:
        return [i for i in self.items if i.kind == kind and split in (None, i.split)]

    def works(
        self, split: str | None = None, min_rung: int | None = None, memorization: str | None = None
    ) -> list[Item]:
        return [
            w
            for w in self._kind("work", split)
            if (min_rung is None or (w.rung or 0) >= min_rung) and memorization in (None, w.memorization)
        ]

    def nonmembers(self, split: str | None = None) -> list[Item]:
        return self._kind("nonmember", split)

    def characters(self, split: str | None = None) -> list[Item]:
        return self._kind("character", split)

    def styles(self, split: str | None = None) -> list[Item]:
        return self._kind("style", split)

    def scenes(self, split: str | None = None) -> list[Scene]:
        return [s for s in self.all_scenes if split in (None, s.split)]

    def shown(self) -> list[Item]:
        """Works to show around: held out, shown most often, of manners that show something."""
        known = {work.id: work for work in self.works()}
        return [known[name] for name in self.world.shown]


def load_manifest(path: Path | None = None) -> Manifest:
    """Reads a testbed's manifest.json; the shipped one without a path.

    Raises WeightsError when it is missing, isn't readable, is of a newer format, or names a picture that isn't there.
    """
    path = path or weights_dir() / "testbed" / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"The testbed's manifest is needed at {path} and is not there; fetch the weights again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); fetch the weights again.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise WeightsError(f"{path} has format {str(found)[:40]}; this version reads format {FORMAT}.")
    try:
        items = tuple(_item(entry, path) for entry in data["items"])
        scenes = tuple(Scene(s["id"], s["caption"], s["split"], _picture(s, path)) for s in data["scenes"])
        rungs = tuple(data["rungs"])
        world = _world(data.get("world", {}))
        return Manifest(path.parent, data["name"], data["resolution"], data["sampling"], rungs, items, scenes, world)
    except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise WeightsError(f"{path} can't be read ({what}); fetch the weights again.") from None


def world_entry(
    things: Iterable[str],
    colors: Mapping[str, Sequence[int]],
    words: Iterable[str],
    captions: Mapping[str, Sequence[str]],
    shown: Sequence[str],
) -> dict:
    """What a manifest says of its world; see World."""
    return {
        "things": list(things),
        "colors": {name: list(rgb) for name, rgb in colors.items()},
        "words": sorted(words),
        "captions": {split: list(some) for split, some in captions.items()},
        "shown": list(shown),
    }


def split_captions(captions: Sequence[str]) -> dict[str, Sequence[str]]:
    """The first half for dev, the other held out."""
    half = len(captions) // 2
    return {"dev": captions[:half], "heldout": captions[half:]}


def _world(entry: dict) -> World:
    return World(
        tuple(entry.get("things", ())),
        {name: (int(r), int(g), int(b)) for name, (r, g, b) in entry.get("colors", {}).items()},
        frozenset(entry.get("words", ())),
        {split: tuple(some) for split, some in entry.get("captions", {}).items()},
        tuple(entry.get("shown", ())),
    )


def _item(entry: dict, manifest: Path) -> Item:
    try:
        file = _picture(entry, manifest)
        lists = {"captions": tuple(entry["captions"]), "aliases": tuple(entry.get("aliases", ()))}
        return Item(**(entry | {"file": file} | lists))
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{manifest} has an entry that can't be read ({error}): {str(entry)[:60]}.") from None


def _picture(entry: dict, manifest: Path) -> Path | None:
    if not entry.get("file"):
        return None
    file = manifest.parent / entry["file"]
    if not file.is_file():
        raise WeightsError(
            f"{manifest} names {entry['file']} for {entry['id']}, which is not there; fetch the weights again."
        )
    return file
