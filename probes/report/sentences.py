"""A run's figures in sentences, each with its own numbers, for a terminal and for a reader who knows no statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from probes.report.figures import MATERIAL, RateRow
from probes.report.scores import agreement_words, score_words
from probes.report.summary import StoredSummary
from probes.report.wording import CONTROLS, wording_of
from probes.runs.records import Record

# What it means if an attack on members beats its controls.
_MEMORY = {
    "attacked": "so the attack shows memory that is still there",
    "hardened_attacked": "so hardening left memory that can be found",
}
_HARDENED = "From the hardened model the same attack at {} got the work back"
_NOTHING = "so at this budget the attack shows no memory beyond what the control gives as well"
_UNDECIDED = f"{_NOTHING}, and so few works don't rule it out"

# Stage, group, and how the sentence about their rate begins.
_SAYINGS = (
    ("before", "members", "Asked by caption for works in its training data, the model returned a copy"),
    ("before", "prompts", "Asked with your prompts, the model returned a copy of the reference picture"),
    ("before", "nonmembers", "Asked the same way for pictures it was never trained on, it returned a copy"),
    ("twin", "members", "A twin model, trained the same way but without these works, returned a copy"),
    ("shielded", "members", "Behind the shield, what was handed out was a copy"),
    ("pruned", "members", "After pruning the located weights, the caption returned a copy"),
    ("random_pruned", "members", "With as many random weights pruned instead, it returned a copy"),
    ("locality", "members", "Searched from noise, the works came back"),
    ("hardened", "members", "After hardening, the caption returned a copy"),
)


def plain_words(figures: StoredSummary, records: Sequence[Record]) -> list[str]:
    """What was found, for a reader who knows no statistics; each sentence carries its own numbers."""
    found = {(row["stage"], row["group"]): row for row in figures["rows"]}
    said = [*score_words(figures), *agreement_words(figures["agreement"])]
    for stage, group, start in _SAYINGS:
        row = found.get((stage, group))
        if stage == "hardened":
            said += attack_words(figures, "attacked")
        if row and row["rate"] is not None:
            said.append(f"{start} in {share(row)}.")
    said += attack_words(figures, "hardened_attacked")
    for utility, what in ((figures["utility"], "pruning"), ((figures["hardening"] or {}).get("utility"), "hardening")):
        if utility:
            said.append(
                f"Agreement of ordinary scenes with their captions went from {utility['alignment_before']:.3f} "
                f"to {utility['alignment_after']:.3f} through {what} (loss {utility['loss']:.3f}, 95% interval "
                f"{utility['low']:.3f} to {utility['high']:.3f}, {many(utility['scenes'], 'scene')})."
            )
    return [*said, *mask_words(figures["mask"]), *unscored_words(records)]


def mask_words(mask: Mapping[str, Any]) -> list[str]:
    """How many weights were located, where a run measured how much the masks of other prompts overlap."""
    overlaps = [row for row in mask.get("overlap", ()) if row["iou"] is not None]
    if not overlaps:
        return []
    last = overlaps[-1]
    random = "none" if last["iou_random"] is None else f"{last['iou_random']:.2f}"
    return [
        f"{mask['weights']} of {mask['size']} weights ({mask['density']:.2%}) were located with {mask['prompts']} "
        f"prompts. Two sets of {last['prompts']} prompts that share none find masks that overlap by "
        f"{last['iou']:.2f} (intersection over union); random masks of that size by {random}."
    ]


def attack_words(figures: StoredSummary, stage: str) -> list[str]:
    """An attack at its largest budget: the raw rate, then the gap to each control, which is the verdict."""
    steps = max((row["attack_steps"] for row in figures["curve"]), default=0)
    member = next((r for r in figures["curve"] if (r["stage"], r["attack_steps"]) == (stage, steps)), None)
    if not steps or member is None or member["rate"] is None:
        return []
    wording = wording_of(figures["attack"])
    start = wording.start if stage == "attacked" else _HARDENED
    said = [f"{start.format(wording.far(steps))} in {share(member)}."]
    for row in figures.get("ladder_of_paraphrases", ()):
        if row["level"] == steps and row["p"] is not None:
            said.append(
                f"On the same noises the caption itself returned copies in {percent(row['caption'])}% (paired "
                f"over works, p = {row['p']:.2g})."
            )
    for gap in figures["gaps"]:
        if (gap["stage"], gap["attack_steps"]) == (stage, steps) and gap["gap"] is not None:
            interval = f"95% interval {100 * gap['low']:+.0f} to {100 * gap['high']:+.0f}"
            said.append(
                f"Compared with the same attack on {CONTROLS.get(gap['control'], gap['control'])}, that is "
                f"{100 * gap['gap']:+.0f} percentage points ({interval}), "
                f"{_MEMORY[stage] if gap['low'] > 0 else _UNDECIDED if gap['gap'] > 0 else _NOTHING}."
            )
    return said


def unscored_words(records: Sequence[Record]) -> list[str]:
    """How many pictures couldn't be judged, and why most of them couldn't; nothing where none were drawn."""
    pictures = [r for r in records if r["stage"] not in MATERIAL and r["kind"] not in ("scene", "kept")]
    reasons: dict[str, int] = defaultdict(int)
    for record in pictures:
        if record.get("copied") is None:
            reasons[record.get("unjudged") or "no reason given"] += 1
    if not reasons:
        return [f"All {len(pictures)} pictures of works and prompts could be judged."] if pictures else []
    listed = "; ".join(f"{count}: {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
    return [
        f"{sum(reasons.values())} of {len(pictures)} pictures could not be judged ({listed}). They count neither "
        "as copies nor as clean."
    ]


def share(row: RateRow) -> str:
    """Like "12 of 16 pictures (75%, 95% interval 50 to 92%, 8 works)"."""
    works = f", {many(row['works'], 'work')}" if row.get("works") else ""
    return (
        f"{row['copied']} of {many(row['n'], 'picture')} ({percent(row['rate'])}%, 95% interval "
        f"{percent(row['low'])} to {percent(row['high'])}%{works})"
    )


def many(number: int, what: str) -> str:
    """Like "1 step" and "2 steps"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def percent(value: float) -> str:
    """A share in percent without decimals; only exactly 0 and 1 are shown as 0 and 100."""
    rounded = round(100 * value)
    if rounded == 0 and value > 0:
        return "<1"
    return ">99" if rounded == 100 and value < 1 else str(rounded)
