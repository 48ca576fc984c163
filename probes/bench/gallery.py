"""Copies that a gallery finds after an edit, and pictures that it takes for copies: each descriptor alone, and all.

Protected are the testbed's works, public-domain clip art (Debian's openclipart-png) and photographs and renderings
(scikit-image's data, Debian's gnome-backgrounds), as far as they are installed; nothing is shipped for this. Others are
fresh pictures of the works' kind and clip art that isn't protected. The limits are a gallery's defaults.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from probes.metrics import rate_interval
from probes.report.format import Figures
from probes.runs.folder import write_json
from shield.errors import BadRequestError
from shield.protected.gallery import Gallery
from shield.protected.pictures import UNREADABLE, open_image

LARGEST, SMALLEST = 512, 100  # sides in pixels
MOST_PIXELS = 20_000_000
ART, PHOTOGRAPHS = 70, 40
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
Named = tuple[str, Image.Image]
Edit = Callable[[Image.Image, Sequence[Image.Image]], Image.Image]


def _framed(share: float) -> Edit:
    def edit(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
        out = Image.new("RGB", one.size, "white")
        margins = (round(share * one.width), round(share * one.height))
        out.paste(one.resize((one.width - 2 * margins[0], one.height - 2 * margins[1])), margins)
        return out

    return edit


def _cropped(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    x, y = round(0.15 * one.width), round(0.15 * one.height)
    return one.crop((x, y, one.width - x, one.height - y)).resize(one.size, Image.Resampling.BICUBIC)


def _shifted(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(one), round(0.1 * one.width), axis=1))


def _hued(turn: int) -> Edit:
    def edit(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
        hue, saturation, value = one.convert("HSV").split()
        turned = Image.fromarray(np.asarray(hue) + np.uint8(turn))
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return edit


def _in_a_corner(share: float) -> Edit:
    def edit(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
        out, size = beside[0].resize(one.size), (round(share * one.width), round(share * one.height))
        out.paste(one.resize(size), (0, one.height - size[1]))
        return out

    return edit


def _in_a_collage(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    out, size = Image.new("RGB", one.size), (one.width // 2, one.height // 2)
    for place, each in enumerate((beside[0], one, beside[1], beside[2])):
        out.paste(each.resize(size), (place % 2 * size[0], place // 2 * size[1]))
    return out


def _from_the_side(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    """The upper edge is 20 % of the width shorter on either side. Pillow wants the map from the result to the
    source.
    """
    w, h = one.size
    lands = [(0.2 * w, 0.0), (0.8 * w, 0.0), (float(w), float(h)), (0.0, float(h))]
    rows, right = [], []
    for (x, y), (u, v) in zip(lands, [(0, 0), (w, 0), (w, h), (0, h)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    laid = np.linalg.solve(np.array(rows, np.float64), np.array(right, np.float64)).tolist()
    return one.transform(one.size, Image.Transform.PERSPECTIVE, laid, Image.Resampling.BICUBIC, fillcolor=(128,) * 3)


def _compressed(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    file = io.BytesIO()
    one.save(file, "JPEG", quality=20)
    return Image.open(file).convert("RGB")


def _noisy(one: Image.Image, beside: Sequence[Image.Image]) -> Image.Image:
    pixels = np.asarray(one, np.float32)
    noise = np.random.default_rng(0).normal(0, 40, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


EDITS: dict[str, Edit] = {
    "frame 3 %": _framed(0.03),
    "frame 6 %": _framed(0.06),
    "frame 10 %": _framed(0.1),
    "shift 10 %": _shifted,
    "crop 30 %": _cropped,
    "turn 15 degrees": lambda one, beside: one.rotate(15, Image.Resampling.BICUBIC),
    "hue 60 degrees": _hued(43),
    "hue 180 degrees": _hued(128),
    "mirror": lambda one, beside: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "corner at 50 %": _in_a_corner(0.5),
    "corner at 70 %": _in_a_corner(0.7),
    "2 x 2 collage": _in_a_collage,
    "perspective 20 %": _from_the_side,
    "JPEG quality 20": _compressed,
    "blur 4 px": lambda one, beside: one.filter(ImageFilter.GaussianBlur(4)),
    "noise 40": _noisy,
}


def bench_gallery(
    out: Path,
    *,
    share: Path = Path("/usr/share"),
    queries: int = 200,
    others: int = 5000,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures, writes gallery.json into ``out`` and returns it.

    Args:
        out: Folder for the figures.
        share: Where Debian's packages put their pictures.
        queries: How many of the protected pictures each edit is tried on, evenly from all kinds.
        others: How many pictures that copy nothing are looked up.
        progress: Called with (what, done, total).
    """
    tell = progress or (lambda what, done, total: None)
    kinds, spare = protected(share, 3 + others // 2)
    named = [one for some in kinds.values() for one in some]
    gallery = Gallery()
    started = time.process_time()
    gallery.add(named)
    embedded = (time.process_time() - started) / len(named)
    chosen = sorted(set(np.linspace(0, len(named) - 1, min(queries, len(named))).round().astype(int).tolist()))
    spent: dict[str, list[float]] = {name: [] for name in gallery.descriptors}
    beside, fresh = [picture for _, picture in spare[:3]], unrelated(others, spare[3:])
    edits: dict[str, Any] = {}
    for number, (name, edit) in enumerate(EDITS.items()):
        rows = [_looked_up(gallery, edit(named[n][1], beside), named[n][0], spent) for n in chosen]
        edits[name] = _rates([{**row, "together": any(row.values())} for row in rows])
        tell("edits", number + 1, len(EDITS))
    false = []
    for number, picture in enumerate(fresh):
        row = _looked_up(gallery, picture, None, spent)
        false.append({**row, "together": any(row.values())})
        tell("others", number + 1, others)
    found = {
        "protected": {kind: len(some) for kind, some in kinds.items()},
        "queries": len(chosen),
        "descriptors": list(gallery.descriptors),
        "limits": _limits(gallery),
        "found": edits,
        "others": len(false),
        "false_hits": _rates(false) if false else {},
        "milliseconds": {name: round(1000 * float(np.median(taken)), 1) for name, taken in spent.items()},
        "embedding_milliseconds": round(1000 * embedded, 1),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "gallery.json", found)
    return found


def _looked_up(
    gallery: Gallery, picture: Image.Image, work: str | None, spent: dict[str, list[float]]
) -> dict[str, bool]:
    """By descriptor, whether it takes the picture for a copy: of this work, or of any."""
    said: dict[str, bool] = {}
    candidates: list[int] = []
    for name, descriptor in gallery.descriptors.items():
        started = time.process_time()
        found = descriptor.find(picture, candidates)
        spent[name].append(time.process_time() - started)
        judged = None if found is None else gallery.judged(name, found)
        said[name] = judged is not None and judged.copied and (work is None or judged.work == work)
        candidates += [] if found is None else descriptor.candidates(found)
    return said


def _rates(rows: Sequence[dict[str, bool]]) -> dict[str, Any]:
    made = {}
    for name in rows[0]:
        hits = [row[name] for row in rows]
        bounds = rate_interval(hits)
        made[name] = {"count": sum(hits), "n": len(rows), "low": bounds.low, "high": bounds.high}
    return made


def _limits(gallery: Gallery) -> dict[str, list[float]]:
    return {
        metric: [limit.copy, limit.near] for one in gallery.descriptors.values() for metric, limit in one.limits.items()
    }


def protected(share: Path, spare: int) -> tuple[dict[str, list[Named]], list[Named]]:
    """(protected pictures by kind, up to `spare` of the clip art that is none of them). Kinds that aren't installed are
    empty.
    """
    from probes.testbed.manifest import load_manifest

    works = [(work.id, open_image(work.file)) for work in load_manifest().works() if work.file is not None]
    files = sorted((share / "openclipart" / "png").rglob("*.png"))
    order = np.random.default_rng(7).permutation(len(files))
    art = list(_shown((files[int(n)] for n in order if not files[int(n)].is_symlink()), ART + spare))
    return {
        "testbed works": works,
        "clip art (openclipart-png)": art[:ART],
        "photographs (scikit-image, gnome-backgrounds)": list(_shown(_photographs(share), PHOTOGRAPHS)),
    }, art[ART:]


def _photographs(share: Path) -> Iterator[Path]:
    package = find_spec("skimage")
    if package is not None and package.submodule_search_locations:
        yield from (Path(package.submodule_search_locations[0]) / "data" / name for name in PHOTOGRAPH_NAMES)
    yield from sorted((share / "backgrounds" / "gnome").glob("*-l.webp"))
    yield from sorted((share / "backgrounds" / "gnome").glob("*-l.jpg"))


def _shown(files: Any, most: int) -> Iterator[Named]:
    """Pictures of these files, reduced to LARGEST; small, narrow and nearly flat ones are left out."""
    count = 0
    for file in files:
        try:
            picture = open_image(file, MOST_PIXELS)
        except UNREADABLE:
            continue
        if min(picture.size) < SMALLEST or max(picture.size) > 3 * min(picture.size):
            continue
        picture.thumbnail((LARGEST, LARGEST))
        if np.asarray(picture.resize((16, 16)), np.float32).std() < 20:
            continue
        yield f"{file.parent.name}/{file.stem}", picture
        count += 1
        if count == most:
            return


def unrelated(count: int, spare: Sequence[Named]) -> Iterator[Image.Image]:
    """Half fresh pictures of the works' kind, half clip art as far as there is; the rest fresh again."""
    from probes.testbed.pool import draw_fresh

    if count < 0:
        raise BadRequestError(f"{count} other pictures were asked for; give 0 or more.")
    rng = np.random.default_rng(2024)
    yield from (picture for _, picture in spare[: count // 2])
    yield from (draw_fresh(rng).image for _ in range(count - min(count // 2, len(spare))))


def table(result: Figures) -> str:
    """A row an edit: how many copies each descriptor misses alone, and all together; then false hits and time."""
    names = [*result["descriptors"], "together"]
    lines = [f"| missed of {result['queries']} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for edit, rates in result["found"].items():
        lines.append(f"| {edit} | {' | '.join(str(rates[n]['n'] - rates[n]['count']) for n in names)} |")
    if result["false_hits"]:
        rates = result["false_hits"]
        cells = [f"{rates[n]['count']} (up to {rates[n]['high']:.2%})" for n in names]
        lines.append(f"| false hits of {result['others']} others | {' | '.join(cells)} |")
    spent = result["milliseconds"]
    cells = [f"{spent[n]:g}" for n in result["descriptors"]]
    lines.append(f"| ms a picture, one core | {' | '.join([*cells, f'{sum(spent.values()):g}'])} |")
    return "\n".join(lines)
