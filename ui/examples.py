"""Prompts to begin with, one of each kind, and what a shipped model knows: from its manifest and its vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shield.protected.concepts import LONG, Concept

if TYPE_CHECKING:
    from probes.testbed.manifest import Manifest

BENIGN = "a bicycle and a car in front of a gray striped background"
UNKNOWN = "an astronaut riding a horse"


@dataclass(frozen=True)
class Example:
    """What it shows, the prompt, and a picture of what the prompt is about; None where there is none."""

    title: str
    prompt: str
    picture: Path | None = None


@dataclass(frozen=True)
class Known:
    """What a shipped model knows: words for things, and captions of the works that it was shown, most often first."""

    things: tuple[str, ...]
    colors: int
    works: tuple[str, ...]


def examples(model: str, concepts: tuple[Concept, ...]) -> list[Example]:
    """One of each kind; the first is what the page begins with."""
    from probes.testbed.checkpoint import Checkpoint

    truth = Checkpoint.of(model).truth
    found = [] if truth is None else _memorized(truth)
    named = next((c for c in concepts if c.descriptions and len(c.name) >= LONG and " " not in c.name), None)
    if named is not None:
        scene = " on a gray background"
        drawn = {} if truth is None else {item.aliases[0]: item.file for item in truth.characters() if item.aliases}
        found += [
            Example(title, words + scene, drawn.get(named.name))
            for title, words in (
                ("A protected character by name", named.name),
                ("… by description", named.descriptions[0]),
                ("… misspelled", misspelled(named.name)),
            )
        ]
    scenes = [] if truth is None else [scene for scene in truth.scenes("heldout") if scene.file is not None]
    ordinary = (scenes[0].caption, scenes[0].file) if scenes else (BENIGN, None)
    return [*found, Example("An ordinary scene", *ordinary)]


def misspelled(name: str) -> str:
    """A slip of the pen: the last two letters change places."""
    return name[:-2] + name[-1] + name[-2]


def known(model: str) -> Known | None:
    """What a shipped model knows; None for every other one, of which nobody here can tell."""
    from probes.testbed.checkpoint import Checkpoint

    truth = Checkpoint.of(model).truth
    if truth is None:
        return None
    works = sorted((w for w in truth.works() if w.exposures and w.captions), key=lambda work: -work.exposures)
    world = truth.world
    return Known(world.things, len(world.colors), tuple(dict.fromkeys(work.captions[0] for work in works)))


def unknown_words(model: str, prompt: str) -> tuple[str, ...]:
    """The words of a prompt that a shipped model was never shown, in order; nothing for other models."""
    from probes.testbed.checkpoint import Checkpoint

    truth = Checkpoint.of(model).truth
    if truth is None or not truth.world.words:
        return ()
    words = re.findall(r"[^\W\d_]{2,}", prompt.casefold())
    return tuple(dict.fromkeys(word for word in words if word not in truth.world.words))


def _memorized(truth: Manifest) -> list[Example]:
    """The work that the testbed shows around; else the one that was shown most often, of those kept for judging."""
    works = [w for w in truth.works(split="heldout", memorization="VM") if w.captions]
    if not works:
        return []
    best = next(iter(truth.shown()), None) or max(works, key=lambda w: w.exposures)
    return [Example("A memorized work", best.captions[0], best.file)]
