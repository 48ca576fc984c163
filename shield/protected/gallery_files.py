"""A saved gallery: gallery.json with its limits and works, and features.npz with what its descriptors keep."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shield.errors import GalleryError, reason_of
from shield.protected.descriptors import Descriptor

FORMAT = 3
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_gallery(folder: Path, descriptors: Mapping[str, Descriptor], about: Mapping[str, Any]) -> None:
    """Writes features and, last, what there is to say `about` them."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: one.arrays() for name, one in descriptors.items()}
    arrays = {f"{name}.{key}": array for name, some in held.items() for key, array in some.items()}
    part = folder / "features.part.npz"
    np.savez(part, **arrays)  # type: ignore[arg-type]
    part.replace(folder / "features.npz")
    text = json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False) + "\n"
    part = folder / "gallery.json.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / "gallery.json")


@contextmanager
def reading(folder: Path) -> Iterator[dict[str, Any]]:
    """What a saved gallery says about itself. What goes wrong in the block is a GalleryError: the files are damaged."""
    try:
        about = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"its format isn't {FORMAT}")
        yield about
    except _DAMAGED as error:
        raise GalleryError(f"{folder} isn't a saved gallery ({reason_of(error)}); save it again.") from None


def restore(folder: Path, descriptors: Mapping[str, Descriptor], count: int) -> None:
    """Gives each descriptor its features of `count` pictures back."""
    with np.load(folder / "features.npz", allow_pickle=False) as features:
        for name, descriptor in descriptors.items():
            start = f"{name}."
            own = {key.removeprefix(start): features[key] for key in features.files if key.startswith(start)}
            descriptor.restore(own, count)


def part_name(named: Sequence[tuple[str, Path]], descriptors: Iterable[str]) -> str:
    """A name for the features of these files as they are now."""
    states = [(work, path.stat().st_size, path.stat().st_mtime_ns) for work, path in named]
    return hashlib.sha256(repr((FORMAT, list(descriptors), states)).encode()).hexdigest()[:24]
