"""The embedding search on many works in one batch against one work at a time: the same searches, in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.timing import Figure, figure, seconds
from probes.attacks import AdversarialEmbedding
from probes.inputs.pictures import reference_picture
from probes.model.generate import encode_pictures, encode_prompts
from probes.testbed.manifest import load_manifest
from probes.types import Goal, Subject
from shield.model.loading import load

WORKS, STEPS, REPEATS = 8, 4, 3


def measure() -> list[Figure]:
    """Held-out works of the top rungs, for one and two draws a step and for the published eight."""
    subject = Subject(load("testbed"), "testbed")
    goals = goals_of(subject)
    found = []
    for draws in (1, 2, 8):
        together = AdversarialEmbedding(steps=STEPS, batch=draws, rows=draws * len(goals))
        alone = replace(together, rows=draws)
        together.search(subject, goals[:1])  # loads what is loaded once
        taken: dict[str, list[float]] = {"one at a time": [], "together": []}
        for _ in range(REPEATS):  # in turn, so that a machine that slows down slows both
            taken["one at a time"] += seconds(partial(alone.search, subject, goals), 1, warm=False)
            taken["together"] += seconds(partial(together.search, subject, goals), 1, warm=False)
        for name, values in taken.items():
            found.append(
                figure(
                    f"{name}, {draws} draws a step: a work's step",
                    [value / len(goals) / STEPS for value in values],
                    "s",
                )
            )
        ratios = [one / other for one, other in zip(taken["one at a time"], taken["together"], strict=True)]
        found.append(figure(f"together is faster, {draws} draws a step", ratios, "times"))
    return found


def goals_of(subject: Subject) -> Sequence[Goal]:
    manifest = load_manifest()
    works = [work for work in manifest.works(split="heldout", memorization="VM")[::-1] if work.file][:WORKS]
    latents = encode_pictures(subject, [reference_picture(work.file) for work in works if work.file])
    embeds = encode_prompts(subject, [work.captions[0] for work in works])
    return [Goal(work.id, latents[row], embeds[row], row) for row, work in enumerate(works)]
