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

from probes.bench import attacks, bypass, detectors, localizers, shield, traps

PAGES = ("README.md", "docs/results.md", "docs/traps.md")
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


def shield_claim(figures: Figures) -> str:
    """docs/bench/shield.json: what leaves the shield, in a sentence or two."""
    kinds = figures["works"]

    def counted(way: str) -> str:
        rows = kinds[way].values()
        return f"{sum(row['count'] for row in rows)} of {sum(row['n'] for row in rows):,}"

    top = [group for group in kinds["bare"] if group.startswith("rung")][-2:]
    bare = [kinds["bare"][group] for group in top]
    scenes = figures["scenes"]["shield and concepts"]
    sum_of = lambda rows, key: sum(row[key] for row in rows)  # noqa: E731
    scales = ", ".join(f"{scale:g}" for scale in figures["guidance"])
    return (f"The bare model copies in {sum_of(bare, 'count') / sum_of(bare, 'n'):.0%} of its pictures of the two "
            f"highest rungs. Over all held-out works, {figures['seeds']} noises and guidance scales {scales}, copies "
            f"left the shield in {counted('shield')} pictures ({sum_of([kinds['shield'][g] for g in top], 'count')} of "
            f"them of the two highest rungs), and with a gallery of the works in {counted('shield and gallery')}. Of "
            f"{scenes['flagged']['n']} benign scenes {scenes['flagged']['count']} were flagged.")  # fmt: skip


def pruning_claim(figures: Figures) -> str:
    """docs/bench/localizers.json: the strongest choice on held-out works beside random weights."""
    rows = {row["name"]: row for row in figures["heldout"]}
    bound = figures["losses"][-1]
    name = next(one for one in rows if one.startswith(f"chosen for a loss up to {bound:g}") and "random" not in one)
    found, random = rows[name], rows[f"{name}, random"]
    return (f"Pruning {found['density']:.0%} of the weights, located with dev works only, leaves "
            f"{share(found['copies'])} of held-out works' pictures copies; as many random weights leave "
            f"{share(random['copies'])}. Scenes' agreement with their captions falls by {found['loss']['value']:.3f} "
            f"[{found['loss']['low']:.3f}, {found['loss']['high']:.3f}].")  # fmt: skip


def attack_claim(figures: Figures) -> str:
    """docs/bench/attacks.json: what the attack brings back, and what is left of it after hardening."""
    last = max(row["attack_steps"] for row in figures["attack"]["curve"])

    def at(found: Figures, stage: str) -> str:
        row = next(row for row in found["curve"] if (row["stage"], row["attack_steps"]) == (stage, last))
        return share(row, "rate")

    ours = figures["attack"]
    text = (f"{last} steps of search on the pruned model bring {at(ours, 'attacked')} back, of matched non-members "
            f"{at(ours, 'nonmember_attacked')}, of the same works on the clean twin {at(ours, 'twin_attacked')}.")
    hardened = figures["hardening"].get("adversarial_fine_tuning")
    if hardened is None:
        return text
    lost = hardened["hardening"]["utility"]
    return (f"{text} After adversarial fine-tuning the same search brings {at(hardened, 'hardened_attacked')} back; "
            f"scenes' agreement falls by {lost['loss']:.3f} [{lost['low']:.3f}, {lost['high']:.3f}].")  # fmt: skip


BLOCKS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "works": ("docs/testbed/verify.json", works),
    "spill": ("docs/testbed/verify.json", spill),
    "best-detector": ("docs/bench/detectors.json", best_detector),
    "detectors": ("docs/bench/detectors.json", detectors.table),
    "shield-claim": ("docs/bench/shield.json", shield_claim),
    "shield": ("docs/bench/shield.json", shield.table),
    "bypass": ("docs/bench/bypass.json", bypass.table),
    "pruning-claim": ("docs/bench/localizers.json", pruning_claim),
    "attack-claim": ("docs/bench/attacks.json", attack_claim),
    "attack": ("docs/bench/attacks.json", attacks.attack_table),
    "hardening": ("docs/bench/attacks.json", attacks.hardening_table),
    "localizers": ("docs/bench/localizers.json", localizers.table),
    "traps": ("docs/bench/traps.json", traps.table),
}
"""Name of a place -> the result file it is filled from, and how."""


def filled(text: str, root: Path) -> str:
    """The text with every place filled in from the result files under ``root``. KeyError for an unknown place."""

    def one(match: re.Match[str]) -> str:
        opened, name, _, ended = match.groups()
        file, write = BLOCKS[name]
        found = root / file
        made = write(json.loads(found.read_text(encoding="utf-8"))) if found.exists() else f"*Not measured: no {file}.*"
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
