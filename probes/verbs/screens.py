"""How well prompts are screened on the testbed: which character is found in what people may say of it, and what is not.

Three screens side by side: by spelling alone, by meaning alone, and both. A protected prompt counts as found when its
own character is; a benign one is flagged by anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.metrics.statistics import wilson
from probes.verbs.calibrate_protected import described_in_short, neighbor_captions, testbed_concepts
from shield.protected.meaning import Meaning, MeaningLimit, Space
from shield.types import Mention

SPLITS = ("dev", "heldout")
BACKGROUNDS = ("a red background", "a gray striped background", "a pink dotted background")
SCREENS = ("spelling", "meaning", "both")

LabeledPrompt = tuple[str, str | None]
"""(prompt, the character it is about)."""


@dataclass(frozen=True)
class ScreenRate:
    """Share of `n` prompts in which each screen found what was protected, or flagged what wasn't; 95 % intervals."""

    group: str
    split: str
    protected: bool
    n: int
    rates: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


def checked(limit: MeaningLimit, openclip: str = "testbed") -> list[ScreenRate]:
    """Every group of prompts of both splits, by the screens over the testbed's characters."""
    space = Space(testbed_concepts(), openclip)
    both = Meaning(space.concepts, space.encoder, limit)
    screens: Sequence[Callable[[str], Sequence[Mention]]] = (
        space.concepts.found,
        lambda prompt: list(space.meant(prompt, limit.value)),
        both.found,
    )
    found = []
    for split in SPLITS:
        for group, prompts in groups(split):
            hits = [sum(_found(screen(prompt), who) for prompt, who in prompts) for screen in screens]
            rates = {name: hit / len(prompts) for name, hit in zip(SCREENS, hits, strict=True)}
            intervals = {name: wilson(hit, len(prompts)) for name, hit in zip(SCREENS, hits, strict=True)}
            found.append(ScreenRate(group, split, prompts[0][1] is not None, len(prompts), rates, intervals))
    return found


def _found(mentions: Sequence[Mention], who: str | None) -> bool:
    return any(who is None or mention.concept == who for mention in mentions)


def groups(split: str) -> Iterator[tuple[str, list[LabeledPrompt]]]:
    """(what these prompts are, prompts): four ways to ask for a character, and three kinds of benign prompts."""
    from probes.testbed.manifest import load_manifest

    manifest = load_manifest()
    characters = [(item.aliases[0], item.aliases, item.description or "") for item in manifest.characters(split)]
    on = [(who, name, full, ground) for who, names, full in characters for ground in BACKGROUNDS for name in names]
    yield "names and aliases", [(f"{name} on {ground}", who) for who, name, _, ground in on]
    yield "descriptions in full", [p for who, _, full in characters for p in _worded(full, who)]
    yield "descriptions in short", [p for who, _, full in characters for p in _worded(described_in_short(full), who)]
    yield "descriptions in another order", [p for who, _, full in characters for p in _swapped(full, who)]
    yield "generic neighbors", [(caption, None) for caption in neighbor_captions(split)]
    yield "scenes", [(scene.caption, None) for scene in manifest.scenes(split)]
    yield "matched non-members", [(item.captions[0], None) for item in manifest.nonmembers(split)]


def _worded(description: str, who: str) -> Iterator[LabeledPrompt]:
    what = description.removeprefix("the ")
    for ground in BACKGROUNDS:
        for form in (f"the {what} on {ground}", f"a {what} in front of {ground}", f"a picture of a {what} on {ground}"):
            yield form, who


def _swapped(description: str, who: str) -> Iterator[LabeledPrompt]:
    """The two things that a creature has, the other way round."""
    creature, parts = description.removeprefix("the ").split(" with ", 1)
    legs, top = parts.rsplit(" and ", 1)
    for ground in BACKGROUNDS:
        yield f"a {creature} with {top} and {legs} on {ground}", who


def format_screens(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for a terminal."""
    head = f"{'':<10}{'prompts':<42}{'n':>5}" + "".join(f"{name:>26}" for name in SCREENS)
    rows = []
    for rate in rates:
        cells = [
            f"{rate['rates'][s]:.1%} [{low:.1%}, {high:.1%}]" for s in SCREENS for low, high in (rate["intervals"][s],)
        ]
        what = ("found: " if rate["protected"] else "flagged: ") + rate["group"]
        rows.append(f"{rate['split']:<10}{what:<42}{rate['n']:>5}" + "".join(f"{cell:>26}" for cell in cells))
    return [head, *rows]
