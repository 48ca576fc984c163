"""A verdict in words, for a reader who knows neither the detectors nor their numbers."""

from __future__ import annotations

import re

from shield.types import Verdict

# What a detector's score says, as the end of "NAME says ...".
MEANS = {
    "structure_gap": "how strongly the prompt, rather than chance, decides where things are",
    "noise_gap": "how strongly the prompt, rather than chance, decides what is drawn",
}
# As shield/runtime/policy.py gives it: DETECTOR [of WORK at step N] VALUE is above THRESHOLD.
ABOVE = re.compile(r"\w+(?: of (?P<work>.+) at step \d+)? (?P<value>\S+) is above (?P<limit>\S+)")


def title(detector: str) -> str:
    """A detector's name as people write it."""
    return detector.replace("_", " ")


def sentence(verdict: Verdict, flagged: bool) -> str:
    """What was decided and why, in one sentence."""
    why = because(verdict)
    if verdict.status == "blocked":
        return f"Blocked, and a gray picture handed out instead: {why}."
    if verdict.status == "mitigated":
        how = f"drawn as “{verdict.rewritten_prompt}” instead" if verdict.rewritten_prompt else "steered elsewhere"
        return f"Flagged and {how}: {why}."
    if flagged:
        return f"Flagged, and handed out all the same because this policy only watches: {why}."
    if not verdict.scored:
        return f"Handed out without a judgement: {why}."
    return "Passed: nothing was flagged, so the shield changed nothing."


def because(verdict: Verdict) -> str:
    """The reasons, each said once: a second attempt gives its own again."""
    said = "; ".join(dict.fromkeys(_plain(reason) for reason in verdict.reasons))
    drawn_again = verdict.status == "mitigated" and not (verdict.nearest is not None and verdict.nearest.copied)
    return said.replace("the picture copies ", "a first attempt copied ") if drawn_again else said


def _plain(reason: str) -> str:
    above = ABOVE.fullmatch(reason)
    if above is None:
        return reason.replace("no mitigation passed the detectors", "nothing that was tried led away from it")
    numbers = f"(score {float(above['value']):.3g}, threshold {float(above['limit']):.3g})"
    if above["work"]:
        return f"on the way it came to look like {above['work']} {numbers}"
    return f"the prompt calls up one certain picture, as memorized ones do {numbers}"
