"""What a scan flagged and what that stands for, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probes.report.summary import Added


def score_words(figures: Added) -> list[str]:
    """Sentences on a scan's flags, or without a threshold on its ranking; none for other summaries."""
    about = figures.get("calibration")
    if not about:
        highest = figures.get("highest")
        return [f'"{highest[0]["prompt"]}" has the highest score of the prompts.'] if highest else []
    prompts = "" if about["prompts"] in (None, about["negatives"]) else f" of {about['prompts']} prompts"
    said = [
        f"{figures['flagged']} of {figures['flagged'] + figures['cleared']} scores lie above the threshold "
        f"{figures['threshold']:.4g}, which at most {about['fpr']:.2%} of scores of benign prompts are to exceed (made "
        f"from {about['negatives']} scores{prompts}: {about['source']})."
    ]
    return said + ([] if (sentence := prevalence_words(figures)) is None else [sentence])


def prevalence_words(figures: Added) -> str | None:
    """How many of the prompts are memorized, with what is known of the detector; None without flags to go by."""
    found = figures.get("prevalence")
    if not found:
        return None
    flagged, alarms, tpr = found["flagged"], found["fpr"], found["tpr"]
    start = (
        f"{flagged['value']:.2%} flagged, {alarms['value']:.2%} ({_between(alarms)}) expected of benign prompts alone"
    )
    if tpr is None:
        return (
            f"{start}: at least {found['low']:.2%} are memorized, with 95 % confidence; how many at most isn't known, "
            "because it wasn't measured which share of memorized prompts the detector finds (--tpr)."
        )
    start += f", {tpr['value']:.1%} ({_between(tpr)}) of memorized ones"
    if found["value"] is None:
        return f"{start}: the detector doesn't tell the two apart well enough to say how many are memorized."
    return (
        f"{start}: {found['value']:.2%} are memorized (95 % interval {_between(found)}; Rogan and Gladen's correction)."
    )


def agreement_words(found: Mapping[str, Any] | None) -> list[str]:
    """Whether pictures of one prompt agree over seeds more than those of benign prompts do."""
    if not found or found["gap"] is None:
        return []
    own, benign, first = found["own"], found["benign"], found["prompts"][0]
    said = (
        f"Near-duplicates among the pictures of {found['seeds']} seeds: {own['agreeing']} of {own['n']} prompts have "
        f"some, and {benign['agreeing']} of {benign['n']} benign prompts (difference {100 * found['gap']:+.0f} points, "
        f"95 % interval {100 * found['low']:+.0f} to {100 * found['high']:+.0f}). This needs no reference picture."
    )
    pairs = f"{first['share']:.0%} of pairs; p {first['p']:.2g} among benign prompts"
    most = f'Most alike come out the pictures of "{first["prompt"]}" ({pairs}).'
    return [said, *([most] if first["share"] else [])]


def _between(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.2%} to {row['high']:.2%}"
