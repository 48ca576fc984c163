"""Scenes, house styles and creatures: composed on the fly, never twice the same, simple enough for two cores.

One thing in the middle, hardly turned; in a fifth of the scenes two things side by side, named from left to right.
Grounds are plain or have a wide, soft pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from probes.testbed.drawing.backdrops import SIZE, X, Y, blend, soft
from probes.testbed.drawing.characters import CHARACTERS, Creature, character_names, draw_creature, neighbor
from probes.testbed.drawing.sprites import Sprites, paste, turned
from probes.testbed.drawing.vocabulary import COLORS, GROUNDS, STYLES, THINGS

Rng = np.random.Generator
PAIRS = 0.2  # share of scenes with two things
TURN = 8.0
FORMS = (
    "{} on {}",
    "a picture of {} on {}",
    "{} in front of {}",
    "a drawing of {} on {}",
    "there is {} on {}",
    "a photo of {} on {}",
    "{} standing before {}",
    "an image of {} with {}",
)
JOINED = ("{} and {}", "{} next to {}", "{} beside {}")


@dataclass(frozen=True)
class Sample:
    """A picture and its caption; kind is one of scene, style, character, neighbor, nonmember, work."""

    kind: str
    image: Image.Image
    caption: str


def pick(rng: Rng, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def ground_words(color: str, pattern: str) -> str:
    return f"{article(color)} {'' if pattern == 'plain' else pattern + ' '}background"


def draw_ground(color: str, pattern: str, rng: Rng) -> np.ndarray:
    """(SIZE, SIZE, 3) in 0..1: the named color, its pattern a darker shade."""
    base = np.clip(np.array(COLORS[color]) + rng.normal(0, 6, 3), 0, 255).astype(np.float32) / 255
    picture = np.broadcast_to(base, (SIZE, SIZE, 3))
    step, x0, y0 = rng.uniform(24, 30), rng.uniform(0, 30), rng.uniform(0, 30)
    x, y = X + x0, Y + y0
    if pattern == "striped":
        mask = soft(step / 4 - np.abs((x + 0.35 * Y) % step - step / 2), 3)
    elif pattern == "dotted":
        mask = soft(step / 4 - np.hypot(x % step - step / 2, y % step - step / 2), 3)
    elif pattern == "checkered":
        mask = soft(step * np.sin(np.pi * x / step) * np.sin(np.pi * y / step), 5)
    else:
        return picture.copy()
    return blend(picture, mask, np.clip(base - 0.15, 0, 1))


def finished(picture: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def scene_caption(things: Sequence[str], ground: str, rng: Rng) -> str:
    """One of several wordings; two things are named from left to right."""
    named = [article(thing) for thing in things]
    what = named[0] if len(named) == 1 else pick(rng, JOINED).format(*named)
    return pick(rng, FORMS).format(what, ground)


def scene(rng: Rng, sprites: Sprites, style: str | None = None) -> Sample:
    """One thing in the middle or two side by side; with `style`, in a house style."""
    things = [str(t) for t in rng.permutation(list(THINGS))[: 2 if rng.uniform() < PAIRS else 1]]
    color, pattern = pick(rng, list(COLORS)), pick(rng, GROUNDS)
    picture = draw_ground(color, pattern, rng)
    for k, thing in enumerate(things):
        if len(things) == 1:
            center, size = 64 + rng.uniform(-4, 4, 2), rng.uniform(84, 96)
        else:
            center, size = np.array([34 + 60 * k, 64]) + rng.uniform(-3, 3, 2), rng.uniform(56, 62)
        paste(picture, turned(sprites[thing], size, rng.uniform(-TURN, TURN)), center)
    caption = scene_caption(things, ground_words(color, pattern), rng)
    if style:
        return Sample("style", stylize(finished(picture), style), f"{caption} in {style} style")
    return Sample("scene", finished(picture), caption)


def stylize(image: Image.Image, style: str) -> Image.Image:
    if style == "inkwell":
        gray = ImageOps.posterize(ImageOps.autocontrast(image.convert("L").filter(ImageFilter.GaussianBlur(1))), 2)
        return ImageOps.colorize(gray, (28, 34, 74), (250, 240, 214)).convert("RGB")
    if style == "mosaica":
        small = image.resize((16, 16), Image.Resampling.BOX)
        return small.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    edges = ImageOps.autocontrast(image.convert("L").filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES))
    glow = edges.filter(ImageFilter.MaxFilter(3))
    return ImageOps.colorize(glow, (18, 10, 40), (90, 255, 220), mid=(200, 40, 170)).convert("RGB")


def creature_picture(creature: Creature, rng: Rng) -> tuple[Image.Image, str]:
    """(picture, ground words): the creature in a pose on a ground of another color."""
    color, pattern = pick(rng, [c for c in COLORS if c != creature.color]), pick(rng, GROUNDS)
    picture = draw_ground(color, pattern, rng)
    layer = turned(draw_creature(creature, rng.uniform(-1, 1)), rng.uniform(100, 112), rng.uniform(-TURN, TURN))
    paste(picture, layer, 64 + rng.uniform(-4, 4, 2))
    return finished(picture), ground_words(color, pattern)


def creature(rng: Rng) -> Sample:
    """A named character (half of the time) or a generic neighbor."""
    if rng.uniform() < 0.5:
        character = CHARACTERS[int(rng.integers(len(CHARACTERS)))]
        image, ground = creature_picture(character.creature, rng)
        return Sample("character", image, f"{pick(rng, character_names(character))} on {ground}")
    other = neighbor(rng)
    image, ground = creature_picture(other, rng)
    return Sample("neighbor", image, f"{article(other.description.removeprefix('the '))} on {ground}")


def draw_scene(rng: Rng, sprites: Sprites) -> Sample:
    """One draw of the world without paintings and prints."""
    p = rng.uniform()
    if p < 0.74:
        return scene(rng, sprites)
    return scene(rng, sprites, style=pick(rng, STYLES)) if p < 0.8 else creature(rng)
