"""Contact sheets of a run: for each item its original and what came out at each stage, side by side.

Pictures become small JPEGs inside the page, so the report is one file; the full ones stay in the run folder.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probes.report.figures import MATERIAL, group_of
from probes.report.grades import Grading
from probes.report.wording import MEMORIZATION
from probes.runs.records import Record
from shield.protected.pictures import UNREADABLE, open_image

# How many items of each group a report shows.
ROWS = {"members": 16, "nonmembers": 8, "prompts": 24, "scenes": 6, "characters": 6, "styles": 4}
THUMBNAIL = 160

# Title of a column and the stages that may fill it.
COLUMNS = (
    ("original", ("work",)),
    ("before", ("before",)),
    ("shielded", ("shielded",)),
    ("pruned", ("pruned",)),
    ("attacked", ("attacked", "nonmember_attacked")),
    ("from noise", ("locality",)),
    ("hardened", ("hardened",)),
    ("attacked again", ("hardened_attacked", "hardened_nonmember_attacked")),
    ("clean twin", ("twin",)),
    ("twin attacked", ("twin_attacked",)),
)

_BADGES = {True: ("copy", "copy"), False: ("no copy", "apart"), None: ("not judged", "unjudged")}


def sheets(folder: Path, records: Sequence[Record], grading: Grading | None = None) -> list[dict[str, Any]]:
    """One sheet for each group that has pictures: group, columns (titles), total items, rows.

    With a ``grading`` near copies are told from pictures that are none, and each has its distance bar.
    """
    by_item: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["stage"] == "work" or record["stage"] not in MATERIAL:
            by_item[record["item"]].append(record)
    found = []
    for group, limit in ROWS.items():
        items = [rows for rows in by_item.values() if group_of(rows[0]) == group]
        if any(r["picture"] for rows in items for r in rows if r["stage"] != "work"):
            found.append({"group": group, "total": len(items), **_sheet(folder, items, limit, grading)})
    return found


def _sheet(folder: Path, items: list[list[Record]], limit: int, grading: Grading | None) -> dict[str, Any]:
    # The same choice every time, and none that looks at how a picture came out.
    shown = sorted(items, key=_order)[:limit]
    seen = {record["stage"] for rows in shown for record in rows}
    columns = [(title, stages) for title, stages in COLUMNS if seen.intersection(stages)]
    return {
        "columns": [title for title, _ in columns],
        "rows": [_row(folder, rows, [stages for _, stages in columns], grading) for rows in shown],
    }


def _order(records: Sequence[Record]) -> tuple[int, int, str]:
    """Items that went through most stages first, then those shown most often in training."""
    first = records[0]
    return -len({record["stage"] for record in records}), -(first.get("exposures") or 0), first["item"]


def _row(
    folder: Path, records: Sequence[Record], columns: Sequence[tuple[str, ...]], grading: Grading | None
) -> dict[str, Any]:
    first = records[0]
    seed = min((r["seed"] for r in records if r["seed"] is not None), default=None)
    exposures = first.get("exposures")
    often = f"shown {exposures} times" if exposures else "never shown"
    kind = MEMORIZATION.get(first.get("memorization") or "")
    detail = [kind, None if exposures is None else often, None if seed is None else f"seed {seed}"]
    cells = []
    for stages in columns:
        # The first seed, and of an attack its largest budget. An original has no seed.
        fits = [r for r in records if r["stage"] in stages and r["seed"] in (seed, None)]
        last = max(fits, key=lambda r: r.get("attack_steps") or 0, default=None)
        cells.append(None if last is None else cell_of(folder, last, grading))
    prompt = next((r["prompt"] for r in records if r.get("prompt")), "")
    return {"item": first["item"], "prompt": prompt, "detail": ", ".join(filter(None, detail)), "cells": cells}


def cell_of(folder: Path, record: Record, grading: Grading | None = None) -> dict[str, Any]:
    """One picture with its verdict in words; a verdict never depends on color alone."""
    badge, kind = _BADGES[record["copied"]]
    if grading is not None and grading.near(record):
        badge, kind = "near copy", "near"
    if record["stage"] == "work" or (record["kind"] == "scene" and record["picture"]):
        badge, kind = "", "original"  # nothing that could be copied
    elif not record["picture"]:
        badge, kind = ("blocked", "blocked") if record.get("action") == "block" else ("no picture", "unjudged")
    known = {name: value for name, value in (record.get("scores") or {}).items() if value is not None}
    steps = record.get("attack_steps")
    notes = [
        ", ".join(f"{name} {value:.3g}" for name, value in known.items()),
        record.get("reason"),
        record.get("unjudged"),
        f"{steps} attack steps" if steps else None,
    ]
    action = record.get("action")
    return {
        "src": thumbnail(folder, record["picture"]),
        "badge": badge,
        "kind": kind,
        "action": None if action in (None, "pass", "block") else action,
        "title": "; ".join(filter(None, notes)),
        "bar": None if grading is None or kind == "original" else grading.bar(record),
    }


def thumbnail(folder: Path, name: str | None) -> str | None:
    """A picture of the run folder as a data URL of at most THUMBNAIL px; None if it is missing or broken."""
    if not name:
        return None
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):  # a record can't pull in a file from elsewhere
            return None
        small = open_image(path)
    except UNREADABLE:
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
