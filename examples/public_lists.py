"""Public prompt lists -> the prompt files that examples/sd14_audit.sh and docs/real-checkpoints.md work with.

    python examples/public_lists.py LISTS OUT --fetch

LISTS holds files of other projects under their own names. Of NeMo (github.com/ml-research/
localizing_memorization_in_diffusion_models, folder prompts/): memorized_laion_prompts.csv (VM verbatim, TM template),
unmemorized_laion_prompts.csv, and coco2014_val_*.csv. OUT gets

    memorized.csv      all memorized prompts, verbatim and template
    locate.csv         verbatim ones that weights are located with; without a near-duplicate in works.csv
    works.csv          verbatim ones that everything is judged by, with their pictures
    calibration.txt    half of the prompts that aren't memorized: thresholds are made from them
    others.csv         the other half: false alarms are counted on them
    nonmembers.csv     as many of those as there are works, with their pictures: controls of every attack
    benign.txt         ordinary captions

With --fetch pictures are downloaded from the addresses in the lists (many are gone); without it, put your own copies
into OUT/pictures under the names in the column "picture". Captions and pictures belong to third parties: keep them out
of repositories.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rapidfuzz.fuzz import token_set_ratio

from probes.runs.progress import bars
from shield.protected.pictures import UNREADABLE, open_image

NEAR, BENIGN, LARGEST, SECONDS = 85.0, 64, 20_000_000, 15.0
MEMORIZED, OTHERS, ORDINARY = "memorized_laion_prompts.csv", "unmemorized_laion_prompts.csv", "coco2014_val_*.csv"


@dataclass(frozen=True)
class Row:
    """One prompt of a list, and where its picture is (an address, and a name under pictures/)."""

    prompt: str
    url: str
    picture: str
    kind: str = ""


def read(file: Path, prefix: str) -> list[Row]:
    """A list's rows; names of pictures are its prefix and row number."""
    with open(file, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter=";"))
    if not rows or not {"Caption", "URL"} <= set(rows[0]):
        sys.exit(f"{file} needs the columns Caption and URL, separated by semicolons.")
    return [
        Row(row["Caption"].strip(), row["URL"].strip(), f"pictures/{prefix}-{place:04d}.png", row.get("type", ""))
        for place, row in enumerate(rows)
        if row["Caption"].strip()
    ]


def halves(rows: Sequence[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Two halves without a near-duplicate across them: groups are shuffled and dealt out to the smaller side."""
    groups: list[list[Row]] = []
    for row in rows:
        near = [group for group in groups if any(token_set_ratio(row.prompt, one.prompt) >= NEAR for one in group)]
        groups = [group for group in groups if group not in near] + [[row, *(one for group in near for one in group)]]
    random.Random(seed).shuffle(groups)
    one: list[Row] = []
    two: list[Row] = []
    for group in sorted(groups, key=len, reverse=True):
        (one if len(one) <= len(two) else two).extend(group)
    return one, two


def fetch(rows: Sequence[Row], out: Path) -> int:
    """Downloads the pictures that aren't there yet; how many of these rows have one afterwards."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    with bars() as track, ThreadPoolExecutor(16) as pool:
        progress = track("pictures")
        for done, _ in enumerate(pool.map(lambda row: _fetched(row, out), rows), start=1):
            progress(done, len(rows))
    return sum((out / row.picture).is_file() for row in rows)


def _fetched(row: Row, out: Path) -> None:
    """One picture as PNG, or none where the address gives no whole picture."""
    path = out / row.picture
    if path.is_file() or urlsplit(row.url).scheme not in ("http", "https"):
        return
    try:
        with urlopen(Request(row.url, headers={"User-Agent": "Mozilla/5.0"}), timeout=SECONDS) as answer:
            held = answer.read(LARGEST + 1)
        if len(held) <= LARGEST:
            picture = open_image(io.BytesIO(held))
            part = path.with_suffix(".part")
            picture.save(part, "PNG")
            part.replace(path)
    except UNREADABLE:
        return


def write(rows: Sequence[Row], file: Path) -> None:
    """A csv with prompt and picture."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "picture", "type"])
        writer.writerows([row.prompt, row.picture, row.kind] for row in rows)


def prepare(lists: Path, out: Path, fetching: bool) -> dict[str, int]:
    """Writes the files; number of prompts of each, and of pictures that are there."""
    ordinary = sorted(lists.glob(ORDINARY))
    missing = [name for name in (MEMORIZED, OTHERS) if not (lists / name).is_file()] + [ORDINARY] * (not ordinary)
    if missing:
        sys.exit(f"{lists} needs {', '.join(missing)}.")
    out.mkdir(parents=True, exist_ok=True)
    memorized = read(lists / MEMORIZED, "memorized")
    locate, works = halves([row for row in memorized if row.kind == "VM"])
    calibration, others = halves(read(lists / OTHERS, "other"))
    benign = random.Random(0).sample(captions := read(ordinary[0], "ordinary"), min(BENIGN, len(captions)))
    wanted = [*works, *locate, *others]
    there = fetch(wanted, out) if fetching else sum((out / row.picture).is_file() for row in wanted)
    nonmembers = sorted(others, key=lambda row: not (out / row.picture).is_file())[: len(works)]
    tables = {"memorized": memorized, "locate": locate, "works": works, "others": others, "nonmembers": nonmembers}
    for name, rows in tables.items():
        write(rows, out / f"{name}.csv")
    for name, rows in {"calibration": calibration, "benign": benign}.items():
        (out / f"{name}.txt").write_text("".join(f"{row.prompt}\n" for row in rows), encoding="utf-8")
    counts = {name: len(rows) for name, rows in {**tables, "calibration": calibration, "benign": benign}.items()}
    return {**counts, "pictures wanted": len(wanted), "pictures there": there}


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn public prompt lists into prompt files for an audit.")
    parser.add_argument("lists", type=Path, help="folder with the lists")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--fetch", action="store_true", help="download the pictures, too")
    asked = parser.parse_args()
    for name, count in prepare(asked.lists, asked.out, asked.fetch).items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
