"""A verdict in words, for a reader who knows neither the detectors nor their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from shield.reasons import Reason
from shield.runtime.remains import NAME as KEPT_MEMORY
from shield.types import Verdict

# What a detector's score says, as the end of "NAME says ...".
MEANS = {
    "kept_structure": "how much of the first step's guess at the picture is still there later",
    KEPT_MEMORY: "how much of what the flagged prompt would have drawn is still in the mitigated picture",
    "structure_gap": "how strongly the prompt, rather than chance, decides where things are",
    "noise_gap": "how strongly the prompt, rather than chance, decides what is drawn",
}


def title(detector: str) -> str:
    """A detector's name as people write it."""
    return detector.replace("_", " ")


def sentence(verdict: Verdict) -> str:
    """What was decided and why, in one sentence."""
    why = because(verdict)
    if verdict.status == "blocked":
        return f"Blocked, and a gray picture handed out instead: {why}."
    if verdict.status == "mitigated":
        how = f"drawn as “{verdict.rewritten_prompt}” instead" if verdict.rewritten_prompt else "steered elsewhere"
        return f"Flagged and {how}: {why}."
    if verdict.flagged:
        return f"Flagged, and handed out all the same because this policy only watches: {why}."
    if not verdict.scored:
        return f"Handed out without a judgement: {why}."
    return "Passed: nothing was flagged, so the shield changed nothing."


def uncalibrated(verdict: Verdict, model: str) -> str:
    """The same where the model isn't calibrated, so that memorization wasn't judged."""
    if verdict.flagged or verdict.status == "blocked":
        return f"{sentence(verdict)} Memorization wasn't judged: {model} isn't calibrated for these settings yet."
    return (
        f"Handed out as it was drawn: nothing in it is protected by name or picture. Memorization wasn't judged, "
        f"because {model} isn't calibrated for these settings yet."
    )


def because(verdict: Verdict) -> str:
    """The reasons, each said once: a second attempt gives its own again."""
    drawn_again = verdict.status == "mitigated" and not (verdict.nearest is not None and verdict.nearest.copied)
    return "; ".join(dict.fromkeys(_plain(reason, drawn_again) for reason in verdict.reasons))


def _plain(reason: Reason, drawn_again: bool) -> str:
    if reason.kind == "exhausted":
        return "nothing that was tried led away from it"
    if reason.kind == "copy" and drawn_again:
        return f"a first attempt copied {reason.work} ({reason.detector} {reason.value:.3f})"
    if reason.kind != "above_threshold":
        return str(reason)
    numbers = f"(score {reason.value:.3g}, threshold {reason.threshold:.3g})"
    if reason.work is not None:
        return f"on the way it came to look like {reason.work} {numbers}"
    if reason.detector == KEPT_MEMORY:
        return f"drawn from another prompt it became that picture all the same {numbers}"
    return f"the prompt calls up one certain picture, as memorized ones do {numbers}"


def never_shown(model: str, words: Sequence[str]) -> str:
    """Which words of a prompt a shipped model doesn't know."""
    said = ", ".join(f"“{word}”" for word in words[:6]) + (" …" if len(words) > 6 else "")
    return f"{model} was never shown {said}: what it draws for that is shapes without meaning."
