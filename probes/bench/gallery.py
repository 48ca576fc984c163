"""Copies that a gallery finds after an edit, and pictures that it takes for copies: each descriptor alone, and all.

The limits are a gallery's defaults. They and the mechanism were chosen on one half of the pictures, every second of
each kind (dev); the table shows the other (held-out). What was looked up is kept by part, an edit of fifty pictures
or a hundred others, so that a measurement goes on where it ended, and a larger one where a smaller one did.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.bench.gallery_edits import EDITS
from probes.bench.gallery_pictures import Named, clip_art, fresh, protected
from probes.metrics import rate_interval
from probes.report.format import Figures
from probes.runs.folder import write_json
from shield.errors import BadRequestError
from shield.protected.gallery import Gallery

BESIDE, EDITED, PART = 3, 50, 100
HALVES = ("dev", "held-out")
Row = dict[str, Any]
"""One picture looked up: `half`, whether each descriptor, and all `together`, found a copy, and what they said."""
Tell = Callable[[str, int, int], None]


def bench_gallery(
    out: Path,
    *,
    parts: Path,
    share: Path = Path("/usr/share"),
    queries: int = 200,
    others: int = 5000,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Measures what isn't in ``parts`` yet, writes gallery.json into ``out`` and returns it.

    Args:
        out: Folder for the figures.
        parts: Folder for what was looked up, from which the next call goes on.
        share: Where Debian's packages put their pictures.
        queries: How many of the protected pictures each edit is tried on, at random from all kinds.
        others: How many pictures that copy nothing are looked up.
        progress: Called with (what, done, total).

    Raises:
        BadRequestError: A number is out of its range.
    """
    if queries < 1 or others < 0:
        raise BadRequestError(f"{queries} protected and {others} other pictures were asked for; give 1 and 0 or more.")
    tell = progress or (lambda what, done, total: None)
    kinds = protected(share)
    named = [one for some in kinds.values() for one in some]
    gallery = Gallery()
    started = time.process_time()
    gallery.add(named)
    embedded = (time.process_time() - started) / len(named)
    chosen = np.random.default_rng(0).permutation(len(named))[:queries].tolist()
    folder = parts / _setting(gallery)
    folder.mkdir(parents=True, exist_ok=True)
    spare = clip_art(share)
    beside = [picture for _, picture in [*islice(spare, BESIDE), *(fresh(others + n) for n in range(BESIDE))]]
    edits = _edited(gallery, [(n, named[n]) for n in chosen], beside, folder, tell)
    false = _unrelated(gallery, spare, others, folder, tell)
    found = {
        "protected": {kind: len(some) for kind, some in kinds.items()},
        "queries": len(chosen),
        "descriptors": list(gallery.descriptors),
        "limits": _limits(gallery),
        "found": {edit: _by_half(rows) for edit, rows in edits.items()},
        "others": len(false),
        "false_hits": _by_half(false) if false else {},
        "milliseconds": _milliseconds(gallery, false or [row for rows in edits.values() for row in rows]),
        "embedding_milliseconds": round(1000 * embedded, 1),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "gallery.json", found)
    return found


def _edited(
    gallery: Gallery, chosen: Sequence[tuple[int, Named]], beside: Sequence[Image.Image], folder: Path, tell: Tell
) -> dict[str, list[Row]]:
    made: dict[str, list[Row]] = {name: [] for name in EDITS}
    steps = [(start, name) for start in range(0, len(chosen), EDITED) for name in EDITS]
    for done, (start, name) in enumerate(steps):
        some = chosen[start : start + EDITED]

        def look(name: str = name, some: Sequence[tuple[int, Named]] = some) -> list[Row]:
            return [looked_up(gallery, EDITS[name](one, beside), work, n, work) for n, (work, one) in some]

        made[name] += _kept(folder / f"{name.replace(' ', '-')}-{start}-{len(some)}.json", look)
        tell("edits", done + 1, len(steps))
    return made


def _unrelated(gallery: Gallery, art: Iterator[Named], others: int, folder: Path, tell: Tell) -> list[Row]:
    """Half clip art that isn't protected, as far as there is any, half fresh pictures in the works' styles."""
    made: list[Row] = []
    while len(made) < others:
        start, count = len(made), min(PART, others - len(made))
        some = list(islice(art, count // 2))
        some += [fresh(n) for n in range(start, start + count - len(some))]

        def look(some: Sequence[Named] = some, start: int = start) -> list[Row]:
            return [looked_up(gallery, one, name, start + n, None) for n, (name, one) in enumerate(some)]

        made += _kept(folder / f"others-{start}-{count}.json", look)
        tell("others", len(made), others)
    return made


def _kept(file: Path, look: Callable[[], list[Row]]) -> list[Row]:
    """What the file holds; else what `look` gives, which it holds from now on."""
    if not file.exists():
        write_json(file, look())
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def looked_up(gallery: Gallery, picture: Image.Image, name: str, number: int, work: str | None) -> Row:
    """Which descriptors take the picture for a copy: of this work, or of any."""
    said: dict[str, Any] = {}
    hits, spent = dict[str, bool](), dict[str, float]()
    candidates: list[int] = []
    for descriptor_name, descriptor in gallery.descriptors.items():
        started = time.process_time()
        found = descriptor.find(picture, candidates)
        spent[descriptor_name] = round(1000 * (time.process_time() - started), 1)
        judged = None if found is None else gallery.judged(descriptor_name, found)
        hits[descriptor_name] = judged is not None and judged.copied and (work is None or judged.work == work)
        said[descriptor_name] = judged and [judged.work, judged.metric, round(judged.score, 4), judged.closeness]
        candidates += [] if found is None else found.candidates
    hits["together"] = any(hits.values())
    return {"picture": name, "half": HALVES[number % 2], "hits": hits, "said": said, "milliseconds": spent}


def _by_half(rows: Sequence[Row]) -> dict[str, Any]:
    return {half: _rates([row["hits"] for row in rows if row["half"] == half]) for half in HALVES}


def _rates(hits: Sequence[Mapping[str, bool]]) -> dict[str, Any]:
    made = {}
    for name in hits[0] if hits else ():
        found = [row[name] for row in hits]
        bounds = rate_interval(found)
        made[name] = {"count": sum(found), "n": len(found), "low": bounds.low, "high": bounds.high}
    return made


def _milliseconds(gallery: Gallery, rows: Sequence[Row]) -> dict[str, float]:
    return {
        name: round(float(np.median([row["milliseconds"][name] for row in rows])), 1) for name in gallery.descriptors
    }


def _limits(gallery: Gallery) -> dict[str, list[float]]:
    return {
        metric: [limit.copy, limit.near] for one in gallery.descriptors.values() for metric, limit in one.limits.items()
    }


def _setting(gallery: Gallery) -> str:
    """A name for what the rows depend on."""
    said = json.dumps([gallery.works, _limits(gallery), list(gallery.descriptors)])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def table(result: Figures) -> str:
    """A row an edit: how many held-out copies each descriptor misses alone, and all together, there and on the dev
    half; then false hits, and time.
    """
    names = [*result["descriptors"], "together"]
    lines = [f"| | {' | '.join(names)} | together, dev |", "|---|" + "---|" * (len(names) + 1)]
    for edit, halves in result["found"].items():
        dev, held = halves["dev"], halves["held-out"]
        cells = [str(held[name]["n"] - held[name]["count"]) for name in names]
        cells.append(f"{dev['together']['n'] - dev['together']['count']} of {dev['together']['n']}")
        lines.append(f"| missed of {held['together']['n']}: {edit} | {' | '.join(cells)} |")
    if result["false_hits"]:
        dev, held = result["false_hits"]["dev"], result["false_hits"]["held-out"]
        cells = [f"{held[name]['count']} (up to {held[name]['high']:.2%})" for name in names]
        cells.append(f"{dev['together']['count']} of {dev['together']['n']}")
        lines.append(f"| copies among {held['together']['n']} others | {' | '.join(cells)} |")
    spent = result["milliseconds"]
    cells = [f"{spent[name]:g}" for name in result["descriptors"]]
    lines.append(f"| ms a picture, one core | {' | '.join([*cells, f'{sum(spent.values()):g}'])} | |")
    return "\n".join(lines)
