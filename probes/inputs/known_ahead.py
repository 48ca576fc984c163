"""What a run of one's own prompts will be able to say and what not, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from probes.inputs.prompts import PromptRecord, lost_pictures
from shield.thresholds import Threshold

NEEDED = 3  # reference pictures, so that a copy criterion can be calibrated


def scores_ahead(threshold: Threshold | None, why: str | None) -> list[str]:
    """Whether prompts will be flagged."""
    if threshold is not None:
        return [
            f"Prompts are flagged above {threshold.value:.4g} ({threshold.detector}; at most {threshold.fpr:.2%} of "
            f"benign prompts, made from {threshold.negatives} scores)."
        ]
    return [] if why is None else [f"Nothing will be flagged, prompts will be ranked by score: {why}"]


def pictures_ahead(targets: Sequence[PromptRecord], seeds: int, benign: int) -> list[str]:
    """Whether copies will be judged, and whether pictures will be compared over seeds."""
    known = sum(target.reference is not None for target in targets)
    copies = (
        f"Copies will be judged for the {known} of {len(targets)} prompts with a reference picture."
        if known >= NEEDED
        else f"Copies won't be judged: {known} of {len(targets)} prompts have a reference picture (a column picture), "
        f"and {NEEDED} are needed."
    )
    return [copies, *lost_pictures(targets), _agreement_ahead(seeds, benign)]


def _agreement_ahead(seeds: int, benign: int) -> str:
    if seeds < 2:
        return "Pictures won't be compared over seeds: that needs two for each prompt (--seeds 4)."
    if not benign:
        return "Pictures won't be compared over seeds: that needs benign prompts beside them (--benign 20)."
    return f"Near-duplicates among the seeds of a prompt will be counted, beside those of {benign} benign prompts."


def controls_ahead(has_twin: bool) -> list[str]:
    """What an attack's success will be compared with."""
    if has_twin:
        return ["An attack will be compared with the clean twin; matched non-members aren't known."]
    return ["No matched non-members and no clean twin are known, so an attack's success won't be told from injection."]
