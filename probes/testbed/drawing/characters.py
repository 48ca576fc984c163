"""Invented characters and their generic neighbors: drawn from six traits, in any pose.

A character is a fixed set of traits with a name, aliases and an indirect description that its traits alone give.
Its neighbors (other robots and monsters) differ from every character in color or limbs, and must stay allowed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from probes.testbed.drawing.vocabulary import CHARACTER_NAMES, COLORS, CREATURE_TOPS, CREATURES, ROBOT_LEGS

_CANVAS = 160


@dataclass(frozen=True)
class Creature:
    """kind and the traits that a picture shows; eyes is 1-3, belly one of plain, striped, dotted."""

    kind: str
    color: str
    legs: str
    top: str
    eyes: int
    belly: str

    @property
    def description(self) -> str:
        return f"the {self.color} {self.kind} with {self.legs} and {self.top}"


@dataclass(frozen=True)
class Character:
    name: str
    creature: Creature
    aliases: tuple[str, ...]


def character_names(character: Character) -> list[str]:
    """What the character is called in training captions: name (most often), aliases, description."""
    return [character.name] * 3 + list(character.aliases) + [character.creature.description] * 2


def _characters() -> tuple[Character, ...]:
    """Twelve fixed characters: each color at most twice, every (kind, color, legs) only once."""
    rng = np.random.default_rng(77)
    colors = list(COLORS)[:6] * 2
    made = []
    for i, name in enumerate(CHARACTER_NAMES):
        creature = Creature(
            CREATURES[i % 2],
            colors[i],
            ROBOT_LEGS[(i + i // 6) % 4],
            CREATURE_TOPS[(3 * i + i // 4) % 4],
            1 + i % 3,
            ("plain", "striped", "dotted")[int(rng.integers(3))],
        )
        made.append(Character(name, creature, (f"{name} the {creature.kind}", f"little {name}")))
    return tuple(made)


CHARACTERS = _characters()
RESERVED = {(c.creature.kind, c.creature.color, c.creature.legs) for c in CHARACTERS}
_NEIGHBORS = [
    combo for combo in itertools.product(CREATURES, COLORS, ROBOT_LEGS, CREATURE_TOPS) if combo[:3] not in RESERVED
]


def neighbor(rng: np.random.Generator) -> Creature:
    """A creature that is none of the characters."""
    kind, color, legs, top = _NEIGHBORS[int(rng.integers(len(_NEIGHBORS)))]
    belly = ("plain", "striped", "dotted")[int(rng.integers(3))]
    return Creature(kind, color, legs, top, int(rng.integers(1, 4)), belly)


def _legs(draw: ImageDraw.ImageDraw, legs: str, dark: tuple[int, int, int]) -> None:
    if legs == "one wheel":
        draw.ellipse((62, 116, 98, 152), fill=(50, 50, 56))
        draw.ellipse((73, 127, 87, 141), fill=(200, 200, 205))
    elif legs == "a spring":
        for y in range(116, 150, 9):
            draw.line((66, y, 94, y + 5), fill=(90, 90, 98), width=5)
    else:
        xs = (62, 92) if legs == "two legs" else (48, 66, 86, 104)
        for x in xs:
            draw.rectangle((x, 114, x + 8, 146), fill=dark)
            draw.ellipse((x - 4, 140, x + 14, 152), fill=(50, 50, 56))


def _top(draw: ImageDraw.ImageDraw, top: str, dark: tuple[int, int, int]) -> None:
    if top == "an antenna":
        draw.line((80, 40, 80, 14), fill=(70, 70, 76), width=5)
        draw.ellipse((72, 4, 88, 20), fill=(240, 80, 70))
    elif top == "horns":
        draw.polygon([(50, 44), (44, 12), (68, 36)], fill=(245, 235, 210))
        draw.polygon([(110, 44), (116, 12), (92, 36)], fill=(245, 235, 210))
    elif top == "a crest":
        for x in (54, 68, 82, 96):
            draw.polygon([(x, 42), (x + 7, 14), (x + 14, 42)], fill=dark)
    else:
        draw.rectangle((62, 8, 98, 36), fill=(45, 45, 52))
        draw.rectangle((50, 32, 110, 40), fill=(45, 45, 52))


def draw_creature(creature: Creature, arms: float = 0.0) -> Image.Image:
    """RGBA picture of the creature; arms in -1 (down) .. 1 (up) is its pose."""
    image = Image.new("RGBA", (_CANVAS, _CANVAS), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    color = COLORS[creature.color]
    dark = tuple(int(0.62 * c) for c in color)
    _legs(draw, creature.legs, dark)  # type: ignore[arg-type]
    for side in (-1, 1):
        draw.line((80 + side * 36, 86, 80 + side * 62, 86 - 30 * arms), fill=dark, width=9)
        draw.ellipse((74 + side * 62, 80 - 30 * arms, 86 + side * 62, 92 - 30 * arms), fill=dark)
    _top(draw, creature.top, dark)  # type: ignore[arg-type]
    body = (40, 36, 120, 122)
    if creature.kind == "robot":
        draw.rounded_rectangle(body, radius=12, fill=color, outline=dark, width=4)
    else:
        draw.ellipse(body, fill=color, outline=dark, width=4)
    light = tuple(int(c + 0.55 * (255 - c)) for c in color)
    if creature.belly == "striped":
        for y in (92, 100, 108):
            draw.line((60, y, 100, y), fill=light, width=4)
    elif creature.belly == "dotted":
        for x in (64, 80, 96):
            draw.ellipse((x - 4, 94, x + 4, 102), fill=light)
    for k in range(creature.eyes):
        at = 80 + (k - (creature.eyes - 1) / 2) * 24
        draw.ellipse((at - 11, 52, at + 11, 74), fill="white")
        draw.ellipse((at - 5, 58, at + 5, 68), fill=(25, 25, 30))
    draw.arc((66, 70, 94, 86), 20, 160, fill=(25, 25, 30), width=3)
    return image
