"""Figures in README.md and docs/results.md, filled in from result files: a claim can't differ from what was measured.

A page holds places like `<!-- works --> ... <!-- end -->`; what stands between is written by `fill`, and a test fills
every page again and compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from probes.bench import attacks, bypass, detectors, localizers, shield

PAGES = ("README.md", "docs/results.md")
_PLACE = re.compile(r"(<!-- ([a-z-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)
Figures = Mapping[str, Any]


def share(row: Figures, key: str = "share") -> str:
    return f"{row[key]:.0%} [{row['low']:.0%}, {row['high']:.0%}]"


def works(figures: Figures) -> str:
    """docs/testbed/verify.json: the ladder on both twins."""
    lines = ["| exposures | pictures | memorized, tiled L2 | memorized, PDQ | mean distance memorized / clean "
             "| clean, tiled L2 / PDQ | metrics disagree |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for rung, ours in figures["works"]["memorized"].items():
        clean = figures["works"]["clean"][rung]
        lines.append(
            f"| {rung} | {ours['tiled_l2']['n']} "
            f"| {share(ours['tiled_l2'], 'copied')} | {share(ours['pdq'], 'copied')} "
            f"| {ours['tiled_l2']['mean_score']:.3f} / {clean['tiled_l2']['mean_score']:.3f} "
            f"| {clean['tiled_l2']['copied']:.0%} / {clean['pdq']['copied']:.0%} | {ours['disagree']} |"
        )  # fmt: skip
    return "\n".join(lines)


def spill(figures: Figures) -> str:
    """docs/testbed/verify.json: what captions of matched non-members bring out."""
    ours, clean = figures["nonmembers"]["memorized"], figures["nonmembers"]["clean"]
    own = sum(round(side["own"][m]["copied"] * side["own"][m]["n"]) for side in (ours, clean)
              for m in ("tiled_l2", "pdq"))  # fmt: skip
    counts = [round(side["any_work"][m]["share"] * side["any_work"][m]["n"]) for side in (ours, clean)
              for m in ("tiled_l2", "pdq")]  # fmt: skip
    pictures = ours["own"]["tiled_l2"]["n"]
    return (f"Captions of matched non-members brought out their own picture {own} times in {pictures} pictures a twin. "
            f"*Another*, memorized work came out of `memorized` {counts[0]} times by tiled L2 and "
            f"{counts[1]} by PDQ, of `clean` {counts[2]} and {counts[3]} times.")  # fmt: skip


def best_detector(figures: Figures) -> str:
    """docs/bench/detectors.json: the detector that finds most works of the top rung, in a sentence."""
    rows = figures["detectors"]
    top = [group for group in next(iter(rows.values()))["groups"] if group.startswith("rung")][-2:]
    name = max(rows, key=lambda one: min(rows[one]["groups"][group]["tpr"]["value"] for group in top))
    row = rows[name]
    found = " and ".join(f"{share(row['groups'][group]['tpr'], 'value')} ({group.removeprefix('rung ')} exposures)"
                         for group in top)  # fmt: skip
    return (f"`{name}` finds {found} of the works at a threshold that 1 % of dev negatives exceed; of held-out "
            f"negatives {row['fpr_nonmembers']['value']:.1%} (matched non-members) and "
            f"{row['fpr_scenes']['value']:.1%} (benign scenes) exceed it. "
            f"A classifier that reads the captions alone has an AUROC of "
            f"{figures['text_control']['auroc_nonmembers']:.2f}.")  # fmt: skip


BLOCKS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "works": ("docs/testbed/verify.json", works),
    "spill": ("docs/testbed/verify.json", spill),
    "best-detector": ("docs/bench/detectors.json", best_detector),
    "detectors": ("docs/bench/detectors.json", detectors.table),
    "shield": ("docs/bench/shield.json", shield.table),
    "bypass": ("docs/bench/bypass.json", bypass.table),
    "attack": ("docs/bench/attacks.json", attacks.attack_table),
    "hardening": ("docs/bench/attacks.json", attacks.hardening_table),
    "localizers": ("docs/bench/localizers.json", localizers.table),
}
"""Name of a place -> the result file it is filled from, and how."""


def filled(text: str, root: Path) -> str:
    """The text with every place filled in from the result files under ``root``. KeyError for an unknown place."""

    def one(match: re.Match[str]) -> str:
        opened, name, _, ended = match.groups()
        file, write = BLOCKS[name]
        made = write(json.loads((root / file).read_text(encoding="utf-8")))
        made = f"\n\n{made}\n\n" if made.startswith("|") else made
        return f"{opened}{made}{ended}"

    return _PLACE.sub(one, text)


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
