"""The prompts that a scan flagged: with score, threshold, words and the user's own columns, highest first."""

from __future__ import annotations

import csv
import heapq
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from probes.errors import ProbeError
from probes.runs.folder import Run
from probes.runs.records import Record
from probes.scan.early_exit import mean_of

# Stages of pictures that the prompts' own are compared with.
BESIDE = ("work", "benign")
# So many are listed at most, so that memory doesn't grow with the number of prompts.
LISTED = 10_000
# So many of them stand in summary.json and in the report.
SHOWN = 100
NAMES = ("item", "prompt", "score", "threshold", "flagged_noises", "noises", "words")

Row = dict[str, Any]


def scored_records(run: Run) -> Iterator[Record]:
    """All records of the prompts that were asked about: none of reference pictures or benign prompts."""
    return (record for record in run.records() if record["stage"] not in BESIDE)


def scored_prompts(run: Run) -> Iterator[list[Record]]:
    """Each prompt's records."""
    groups = itertools.groupby(scored_records(run), key=lambda record: record["item"])
    return (list(records) for _, records in groups)


def flagged_prompts(run: Run, detector: str, threshold: float | None) -> tuple[list[Row], int]:
    """The flagged prompts by falling mean score, LISTED at most, and how many there are.

    A prompt counts as flagged if one of its noises is; with early exit, if its mean is above the threshold. ``seed`` is
    the noise with its highest score.
    """
    count = 0

    def rows() -> Iterator[tuple[float, int, Row]]:
        nonlocal count
        for records in scored_prompts(run):
            if not is_flagged(records):
                continue
            count += 1
            known = [(value, one) for one in records if (value := one["scores"].get(detector)) is not None]
            score = mean_of([value for value, _ in known])
            first, (_, highest) = records[0], max(known, key=lambda pair: pair[0])
            yield (
                score,
                -count,
                {
                    "item": first["item"],
                    "prompt": first["prompt"],
                    "score": score,
                    "threshold": threshold,
                    "flagged_noises": sum(one["flagged"] is True for one in records),
                    "noises": len(records),
                    "seed": highest["seed"],
                    "columns": first.get("columns", {}),
                },
            )

    listed = heapq.nlargest(LISTED, rows())
    return [row for _, _, row in listed], count


def highest_prompts(records: Sequence[Record], detector: str, count: int = 10) -> list[Row]:
    """The prompts with the highest mean scores: score, item, prompt."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record["scores"].get(detector) is not None:
            groups.setdefault(record["item"], []).append(record)
    rows = [
        {"score": mean_of([one["scores"][detector] for one in group]), "item": item, "prompt": group[0]["prompt"]}
        for item, group in groups.items()
    ]
    return heapq.nlargest(count, rows, key=lambda row: row["score"])


def is_flagged(records: Sequence[Record]) -> bool:
    """Whether a prompt counts as flagged, from its records."""
    if "prompt_flagged" in records[-1]:
        return records[-1]["prompt_flagged"] is True
    return any(one["flagged"] is True for one in records)


def write_flagged(folder: Path, rows: Sequence[Row]) -> Path:
    """Writes flagged.csv: the user's columns, then ours. ProbeError if it can't be written."""
    path = folder / "flagged.csv"
    own = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    header = [*(f"own_{name}" if name in NAMES else name for name in own), *NAMES]
    ours = ({**row, "words": words_text(row.get("words", ()))} for row in rows)
    lines = [[*(row["columns"].get(name, "") for name in own), *(row[name] for name in NAMES)] for row in ours]
    write_csv(path, header, lines)
    return path


def write_csv(path: Path, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Writes a list of a run whole or not at all. ProbeError if it can't be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "w", newline="", encoding="utf-8", errors="replace") as stream:
            csv.writer(stream).writerows([header, *lines])
        part.replace(path)
    except OSError as error:
        raise ProbeError(f"Can't write {path}: {error.strerror or error}. The records are in records.jsonl.") from error


def words_text(words: Sequence[Sequence[Any]]) -> str:
    """Like "starry 0.61, night 0.30": words by falling share."""
    ranked = sorted(words, key=lambda word: -word[1])
    return ", ".join(f"{text} {share:.2f}" for text, share in ranked)
