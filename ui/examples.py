"""Prompts to begin with, one of each kind: from the testbed's manifest, or from what is protected."""

from __future__ import annotations

from shield.protected.concepts import LONG, Concept

BENIGN = "a bicycle and a car in front of a gray striped background"


def examples(model: str, concepts: tuple[Concept, ...]) -> list[tuple[str, str]]:
    """(what it shows, prompt) pairs."""
    found = [("A memorized work", caption)] if (caption := _memorized(model)) else []
    named = next((c for c in concepts if c.descriptions and len(c.name) >= LONG and " " not in c.name), None)
    if named is not None:
        scene = " on a gray background"
        found += [
            ("A protected character by name", named.name + scene),
            ("… by description", named.descriptions[0] + scene),
            ("… misspelled", misspelled(named.name) + scene),
        ]
    return [*found, ("An ordinary scene", BENIGN)]


def misspelled(name: str) -> str:
    """A slip of the pen: the last two letters change places."""
    return name[:-2] + name[-1] + name[-2]


def _memorized(model: str) -> str | None:
    """The caption of the testbed's work that was shown most often, of those kept for judging."""
    from probes.testbed.checkpoint import Checkpoint

    truth = Checkpoint.of(model).truth
    if truth is None:
        return None
    works = [w for w in truth.works(split="heldout", memorization="VM") if w.captions]
    return max(works, key=lambda work: work.exposures).captions[0] if works else None
