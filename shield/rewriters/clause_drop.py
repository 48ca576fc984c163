"""Leave out the part of a prompt that carries the memory: a title, a name, a clause.

A memorized caption usually names one picture ("the silent orchard, a painting by ..."); most of what a person asked
for survives without one of its clauses. Which clause carries the memory isn't guessed: each shorter prompt is
proposed, the longest first, and the detectors decide. No model, no network.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from shield.types import Mention, WordWeight

_QUOTED = re.compile(r"[\"“„«][^\"”“»]+[\"”“»]")
_BREAK = re.compile(r"\s*[,;:|]\s*|\s+[-–—]\s+|\s+(?=by\s)", re.IGNORECASE)

_DANGLING = re.compile(r"\s*\b(?:of|by|from|called|titled|named|entitled)\s*(?=[,;:]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class ClauseDrop:
    """Proposes at most `limit` prompts, each the original without a quoted title or without one or more clauses."""

    limit: int = 4

    name: ClassVar[str] = "clause_drop"
    needs_weights: ClassVar[bool] = False

    def propose(self, prompt: str, concepts: Sequence[Mention], weights: Sequence[WordWeight] = ()) -> Iterable[str]:
        """Shorter prompts, longest first, without repetition and never the original or nothing at all."""
        clauses = [clause.strip() for clause in _BREAK.split(prompt) if clause.strip()]
        shorter = {tidy(_QUOTED.sub("", prompt))}
        for dropped in range(len(clauses)):
            shorter.add(tidy(_joined(clauses[:dropped] + clauses[dropped + 1 :])))
        shorter |= {tidy(clause) for clause in clauses}
        kept = (p for p in shorter if p and p != tidy(prompt) and not p.lower().startswith("by "))
        return sorted(kept, key=lambda p: (-len(p), p))[: self.limit]


def _joined(clauses: Sequence[str]) -> str:
    """Clauses as one prompt; "by NAME" isn't set off by a comma."""
    text = ""
    for clause in clauses:
        text += clause if not text else (" " if clause.lower().startswith("by ") else ", ") + clause
    return text


def tidy(text: str) -> str:
    """`text` without what a left-out part leaves behind: spaces, lone commas, "by" with no one after it."""
    spaced = re.sub(r"\s+(?=[,;:])", "", _DANGLING.sub("", re.sub(r"\s+", " ", text)))
    return spaced.strip(" ,;:|-–—")
