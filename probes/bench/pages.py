"""Figures in README.md and docs/results.md, filled in from result files: a claim can't differ from what was measured.

A page holds places like `<!-- works --> ... <!-- end -->`; what stands between is written by `fill`, and a test fills
every page again and compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from probes.bench import (
    attacks,
    bypass,
    claims,
    detectors,
    gallery,
    localizers,
    meaning,
    mitigations,
    questions,
    requests,
    resurgence,
    revival,
    rewordings,
    shield,
    text_free,
    traps,
)
from probes.report.format import finished, stored

PAGES = ("README.md", "docs/results.md", "docs/traps.md", "docs/scale.md")
BENCHMARKS = "docs/bench/benchmarks.json"
WHERE = {"": "", "docs/bench/first": "(Of the testbed's first version:)"}
"""Where a result is looked for, beside its own place: those of the testbed's first version, until `make bench` has made
them on this one; and what is said of it.
"""
_PLACE = re.compile(r"(<!-- ([a-z-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)
_FIRST = re.compile(r"bench/first/([\w.-]+)")


BLOCKS: Mapping[str, tuple[str, Callable[[Any], str | None]]] = {
    "works": ("docs/testbed/verify.json", claims.works),
    "spill": ("docs/testbed/verify.json", claims.spill),
    "best-detector": ("docs/bench/detectors.json", claims.best_detector),
    "leaderboard": ("docs/bench/detectors.json", detectors.leaderboard),
    "detectors": ("docs/bench/detectors.json", detectors.table),
    "shield-claim": ("docs/bench/shield.json", claims.shield_claim),
    "shield": ("docs/bench/shield.json", shield.table),
    "bypass": ("docs/bench/bypass.json", bypass.table),
    "meaning": ("docs/bench/meaning.json", meaning.table),
    "pruning-claim": ("docs/bench/localizers.json", claims.pruning_claim),
    "attack-claim": ("docs/bench/attacks.json", claims.attack_claim),
    "attack": ("docs/bench/attacks.json", attacks.attack_table),
    "hardening": ("docs/bench/attacks.json", attacks.hardening_table),
    "localizers": (
        "docs/bench/localizers.json",
        lambda found: None if "unfinished" in found else localizers.table(found),
    ),
    "resurgence": ("docs/bench/resurgence.json", resurgence.table),
    "text-free": ("docs/bench/text_free.json", text_free.table),
    "revival": ("docs/bench/revival.json", revival.table),
    "mitigations": ("docs/bench/mitigations.json", mitigations.table),
    "gallery": ("docs/bench/gallery.json", gallery.table),
    "rewordings": ("docs/bench/rewordings.json", rewordings.table),
    "requests": ("docs/bench/requests.json", requests.table),
    "traps": ("docs/bench/traps.json", traps.table),
    "overhead": (BENCHMARKS, claims.overhead),
    "scan-speed": (BENCHMARKS, claims.speeds),
    "scale-plan": (BENCHMARKS, claims.plan),
    **{
        name.replace("_", "-"): (BENCHMARKS, claims.benchmark(name))
        for name in (
            "copy_scores",
            "gallery_queries",
            "shield_paths",
            "attack_batching",
            "localization_cost",
            "scan_early_exit",
            "scan_memory",
            "scan_workers",
            "real_size",
            "busy_cores",
        )
    },
}
"""Name of a place -> the result file it is filled from, and how; None says that the file lacks this part."""

QUESTIONS = {"questions": questions.table, "then-and-now": questions.compared}
"""Places that are filled in from all of `questions.SOURCES`, of this testbed and of its first version."""


def filled(text: str, root: Path) -> str:
    """The text with every place filled in from the result files under ``root``, and headings and plots of the first
    version that lead to what was measured since. KeyError for an unknown place.
    """
    made = _PLACE.sub(lambda match: f"{match[1]}{_written(match[2], root)}{match[4]}", text)
    return "\n".join(_current(line, root) if line.startswith(("#", "![")) else line for line in made.split("\n"))


def _current(line: str, root: Path) -> str:
    """A line whose links to the first version's files lead to this one's, where they are there."""

    def led(link: re.Match[str]) -> str:
        path = root / "docs/bench" / link[1]
        is_there = bool(finished(path)) if path.suffix == ".json" else path.exists()
        return f"bench/{path.name}" if is_there else link[0]

    return _FIRST.sub(led, line)


def _written(name: str, root: Path) -> str:
    """What stands in a place; a table between empty lines."""
    if name in QUESTIONS:
        found = [{key: _read(root, file, folder) for key, file in questions.SOURCES.items()} for folder in WHERE]
        return f"\n\n{QUESTIONS[name](*found)}\n\n"
    file, write = BLOCKS[name]
    for folder, mark in WHERE.items():
        result = _read(root, file, folder)
        if result and (made := write(result)) is not None:
            if not made.startswith("|"):
                return f"{mark} {made}" if mark else made
            return f"\n\n{mark}\n\n{made}\n\n" if mark else f"\n\n{made}\n\n"
    return f"*Not measured: nothing in {file}.*"


def _read(root: Path, file: str, folder: str) -> Any:
    """A result of this testbed (folder "") or of its first version, also half of one; None where there is none."""
    path = root / (Path(folder) / Path(file).name if folder else file)
    return stored(path) or None


def fill(root: Path) -> list[Path]:
    """Fill every page under ``root``; returns those that changed."""
    changed = []
    for page in map(root.joinpath, PAGES):
        before = page.read_text(encoding="utf-8")
        after = filled(before, root)
        if after != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed
