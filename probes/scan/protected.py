"""What of a scan is protected: concepts that its prompts name, and pictures that copy a gallery's.

Both are looked up after the scores, from the records alone, so that they cost no denoiser call and hold for merged
shards, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from probes.report.summary import Added
from probes.runs.folder import Run
from probes.scan.flagged import SHOWN, scored_prompts, scored_records, write_csv
from shield.errors import BadRequestError
from shield.protected.gallery import Gallery
from shield.runtime.arguments import as_gallery, as_screen

NAMED, COPIES = "named.csv", "gallery.csv"
LOOKED_AT = ("copy", "near")


def protected_figures(run: Run, gallery: Gallery | None = None) -> Added:
    """The figures, for summary.json, and the two lists in the run folder.

    Args:
        run: With its records. Its configuration says which ``concepts`` (none: the names that ship).
        gallery: What check_protected read: the pictures of the configuration's ``gallery``.

    Raises:
        BadRequestError, RegistryError, GalleryError: The concepts, or a drawn picture, can't be read.
        ProbeError: A list can't be written.
    """
    found: Added = {"named": _named(run)}
    if gallery is not None:
        found["protected_pictures"] = _copies(run, gallery)
    return found


def check_protected(concepts: Sequence[str], gallery: str | None, pictures: bool) -> Gallery | None:
    """Reads what is protected before anything is scored; returns the gallery.

    Raises:
        BadRequestError, RegistryError, GalleryError: It can't be read, or there are no pictures to compare.
    """
    as_screen(list(concepts) or True)
    if gallery is not None and not pictures:
        raise BadRequestError("A scan compares the pictures that it draws with --gallery; add --pictures.")
    return as_gallery(gallery)


def _named(run: Run) -> dict[str, Any]:
    """How many prompts name a protected concept, which concepts, and the first of the prompts."""
    screen = as_screen(list(run.config.get("concepts") or ()) or True)
    assert screen is not None
    rows, prompts, concepts = list[list[Any]](), 0, Counter[str]()
    for records in scored_prompts(run):
        first, prompts = records[0], prompts + 1
        names = list(dict.fromkeys(mention.concept for mention in screen.found(first["prompt"])))
        concepts.update(names)
        if names:
            rows.append([first["item"], first["prompt"], ", ".join(names)])
    write_csv(run.folder / NAMED, ["item", "prompt", "concepts"], rows)
    return {
        "prompts": prompts,
        "named": len(rows),
        "concepts": dict(concepts.most_common()),
        "rows": [dict(zip(("item", "prompt", "concepts"), row, strict=True)) for row in rows[:SHOWN]],
    }


def _copies(run: Run, gallery: Gallery) -> dict[str, Any]:
    """How many of the pictures copy one of the gallery's, or come near to one."""
    header = ["item", "prompt", "seed", "picture", "closeness", "work", "metric", "score", "threshold"]
    rows, count = list[list[Any]](), 0
    for record in scored_records(run):
        if record.get("picture") is None:
            continue
        count += 1
        nearest = gallery.nearest(run.folder / str(record["picture"]))
        if nearest is not None and nearest.closeness in LOOKED_AT:
            where = [record["item"], record["prompt"], record["seed"], record["picture"]]
            rows.append([*where, nearest.closeness, nearest.work, nearest.metric, nearest.score, nearest.threshold])
    rows.sort(key=lambda row: (LOOKED_AT.index(row[4]), row[8] - row[7]))
    write_csv(run.folder / COPIES, header, rows)
    return {
        "pictures": count,
        "works": len(set(gallery.works)),
        **{what: sum(row[4] == what for row in rows) for what in LOOKED_AT},
        "rows": [dict(zip(header, row, strict=True)) for row in rows[:SHOWN]],
    }


def protected_words(named: dict[str, Any] | None, pictures: dict[str, Any] | None) -> list[str]:
    """The figures for a terminal."""
    lines = []
    if named and named["named"]:
        most = ", ".join(list(named["concepts"])[:3])
        lines.append(f"{named['named']} of {named['prompts']} prompts name a protected concept ({most}): {NAMED}")
    if pictures:
        lines.append(
            f"{pictures['copy']} of {pictures['pictures']} pictures copy one of {pictures['works']} protected works, "
            f"{pictures['near']} come near to one: {COPIES}"
        )
    return lines
