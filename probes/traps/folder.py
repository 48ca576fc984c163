"""A folder of traps as it was made, checked file by file; and the testbed's own works in the place of traps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import TrapError
from probes.paths import takes_paths
from probes.runs.provenance import sha256_of
from shield.errors import reason_of

FORMAT = 1
MANIFEST, USED, HELD_BACK = "manifest.json", "used", "held_back"


@dataclass(frozen=True)
class Trap:
    """A picture with its caption; ``copies`` is how often it was used, None where it is held back.

    Held-back traps are what all others are compared with. 0 copies, on the testbed alone, is a rung like any other.
    """

    id: str
    copies: int | None
    caption: str
    file: Path


@dataclass(frozen=True)
class Traps:
    """All traps of a folder, with the manifest's sha256."""

    traps: tuple[Trap, ...]
    sha256: str

    @property
    def rungs(self) -> list[int]:
        return sorted({trap.copies for trap in self.traps if trap.copies is not None})

    @property
    def held_back(self) -> int:
        return sum(trap.copies is None for trap in self.traps)


@takes_paths
def read_traps(folder: Path) -> Traps:
    """The traps of a folder written by make. TrapError if it is none, or if a file is missing or altered."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrapError(
            f"{folder} is no folder of traps: it has no {MANIFEST}. Make one with: diffshield traps make."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrapError(f"{path} can't be read: {reason_of(error)}.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("traps"), list):
        raise TrapError(f"{path} isn't a manifest of traps in format {FORMAT}.")
    return _complete(Traps(tuple(_checked(folder, entry) for entry in data["traps"]), sha256_of(path)), path)


def shipped_traps() -> Traps:
    """The testbed's verbatim works by rung, and its matched non-members as those held back.

    Works that are templates are left out: no non-member was made in their manner.
    """
    from probes.testbed.manifest import load_manifest

    manifest = load_manifest()
    items = [(work, work.rung or 0) for work in manifest.works(memorization="VM")]
    every = [*items, *((item, None) for item in manifest.nonmembers())]
    traps = tuple(Trap(item.id, rung, item.captions[0], item.file) for item, rung in every if item.file is not None)
    return _complete(Traps(traps, sha256_of(manifest.folder / MANIFEST)), manifest.folder / MANIFEST)


def _complete(traps: Traps, path: Path) -> Traps:
    if not traps.rungs or not traps.held_back:
        raise TrapError(
            f"{path} needs traps that were used and traps that were held back; it has "
            f"{len(traps.traps) - traps.held_back} and {traps.held_back}."
        )
    if len({trap.id for trap in traps.traps}) < len(traps.traps):
        raise TrapError(f"{path} names a trap twice.")
    return traps


def _checked(folder: Path, entry: Any) -> Trap:
    texts = ("id", "caption", "file", "sha256")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in texts):
        raise TrapError(f"{folder / MANIFEST} has an entry without {', '.join(texts)}: {str(entry)[:60]}.")
    copies = entry.get("copies")
    if copies is not None and (type(copies) is not int or copies < 1):
        raise TrapError(
            f"{folder / MANIFEST} gives {entry['id']} {copies!r} copies; it takes a whole number from 1 on, or null."
        )
    file = folder / entry["file"]
    try:
        found = sha256_of(file) if file.is_file() else None
    except (OSError, ValueError) as error:
        raise TrapError(f"The picture of {entry['id']} can't be read: {reason_of(error)}.") from error
    if found != entry["sha256"]:
        what = "is not there" if found is None else "is not the one that was made"
        raise TrapError(f"{entry['file']} in {folder} {what}; the test needs the traps as they were made.")
    return Trap(entry["id"], copies, entry["caption"], file)
