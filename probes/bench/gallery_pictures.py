"""The bench's protected pictures of three kinds, and others that copy none of them. Nothing is shipped for this.

Clip art is Debian's openclipart-png, photographs and renderings are scikit-image's data and the backgrounds of Debian's
gnome-backgrounds, mate-backgrounds and plasma-workspace-wallpapers, as far as these are installed. Clip art comes in
series that differ in a detail (`stars/star_87pt40step`): what has its folder and its name's first word in common with a
protected picture is none of the others, it is a variant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from shield.protected.pictures import UNREADABLE, open_image

LARGEST, SMALLEST = 512, 100  # sides in pixels
MOST_PIXELS = 20_000_000
ART, PHOTOGRAPHS = 60, 50
STRUCTURE = 20.0  # least standard deviation of a picture reduced to 16 x 16
PHOTOGRAPH_NAMES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
BACKGROUNDS = ("backgrounds/gnome/*-l.webp", "backgrounds/mate/nature/*.jpg", "wallpapers/*/contents/screenshot.*")
Named = tuple[str, Image.Image]


def protected(share: Path) -> dict[str, list[Named]]:
    """Protected pictures by kind; a kind that isn't installed is empty."""
    from probes.testbed.manifest import load_manifest

    works = [(work.id, open_image(work.file)) for work in load_manifest().works() if work.file is not None]
    return {
        "testbed works": works,
        "clip art (openclipart-png)": list(islice(_shown(_art(share)), ART)),
        "photographs (scikit-image, desktop backgrounds)": list(islice(_shown(_photographs(share)), PHOTOGRAPHS)),
    }


def clip_art(share: Path) -> Iterator[Named]:
    """The clip art that isn't protected, nor a variant of what is, one at a time."""
    shown = _shown(_art(share))
    varied = {_series(name) for name, _ in islice(shown, ART)}
    return (one for one in shown if _series(one[0]) not in varied)


def _series(name: str) -> tuple[str, str]:
    folder, stem = name.split("/")
    word = re.match(r"[A-Z]?[a-z]+|[A-Z]+|.", stem)
    return folder, word.group() if word else stem


def fresh(number: int) -> Named:
    """One of endless pictures in the testbed works' styles, by its number."""
    from probes.testbed.fresh import fresh_pictures
    from probes.testbed.manifest import load_manifest

    return f"fresh-{number}", fresh_pictures(load_manifest())(np.random.default_rng([2024, number]))


def _art(share: Path) -> Sequence[Path]:
    files = sorted(file for file in (share / "openclipart" / "png").rglob("*.png") if not file.is_symlink())
    return [files[n] for n in np.random.default_rng(7).permutation(len(files))]


def _photographs(share: Path) -> Iterator[Path]:
    package = find_spec("skimage")
    if package is not None and package.submodule_search_locations:
        yield from (Path(package.submodule_search_locations[0]) / "data" / name for name in PHOTOGRAPH_NAMES)
    for pattern in BACKGROUNDS:
        yield from sorted(share.glob(pattern))


def _shown(files: Iterable[Path]) -> Iterator[Named]:
    """Pictures of these files, reduced to LARGEST; small, narrow, nearly flat and repeated ones are left out."""
    seen = set[bytes]()
    for file in files:
        try:
            picture = open_image(file, MOST_PIXELS)
        except UNREADABLE:
            continue
        if min(picture.size) < SMALLEST or max(picture.size) > 3 * min(picture.size):
            continue
        picture.thumbnail((LARGEST, LARGEST))
        small = np.asarray(picture.resize((16, 16)), np.uint8)
        if small.astype(np.float32).std() >= STRUCTURE and small.tobytes() not in seen:
            seen.add(small.tobytes())
            yield "/".join((*file.parent.parts[-3 if file.stem == "screenshot" else -1 :], file.stem)), picture
