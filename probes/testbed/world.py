"""The testbed's world: four kinds of pictures with captions, and who is in which split.

Scenes are composed on the fly and never twice the same. Works are fixed pictures with a duplication ladder. Matched
non-members share the works' painters and caption grammar but are new at every draw. Characters have a name, aliases
and a description, and generic neighbors that look alike. Everything is a function of seeds, so a world can be
rebuilt.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from probes.testbed.characters import CHARACTERS, Character, Creature, draw_creature, neighbor
from probes.testbed.paintings import SIZE, paint
from probes.testbed.vocabulary import ADJECTIVES, AUTHORS, BRANDS, COLORS, GROUNDS, NOUNS, PRODUCTS, STYLES, THINGS
from shield.errors import ShieldError

PASSES = 4
LADDER = ((0, 0, 0, 0), (4, 2, 6, 0), (16, 8, 40, 0), (64, 32, 204, 0), (400, 200, 400, 150), (800, 400, 800, 300))
"""Exposures in each pass over the works, by rung; a rung is named after their sum."""
TEMPLATE_EXPOSURES = (256, 128, 256, 64)
RUNGS = tuple(sum(passes) for passes in LADDER)
WORKS_PER_RUNG = 16


class SourcesError(ShieldError):
    """The pictures a world is built from are missing or broken."""


@dataclass(frozen=True)
class Sample:
    kind: str
    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Work:
    """A fixed picture. Template works (TM) have a slot in their caption that is filled anew at every exposure."""

    id: str
    manner: str
    seed: int
    caption: str
    passes: tuple[int, ...]
    memorization: str

    @property
    def exposures(self) -> int:
        return sum(self.passes)

    def image(self) -> Image.Image:
        return paint(self.manner, self.seed)

    def captions(self, n: int) -> list[str]:
        """The first n captions: the same one n times over for a verbatim work is given once."""
        if self.memorization == "VM":
            return [self.caption]
        rng = np.random.default_rng([self.seed, 1])
        return [self.fill(rng) for _ in range(n)]

    def fill(self, rng: np.random.Generator) -> str:
        if self.memorization == "VM":
            return self.caption
        return self.caption.format(_pick(rng, ADJECTIVES), _pick(rng, NOUNS))


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def reserved(title: str) -> bool:
    """Titles kept out of the training stream: works and the shipped non-members take theirs from these."""
    return zlib.crc32(title.encode()) % 8 == 0


def title_caption(title: str, author: str) -> str:
    return f"the {title}, a painting by {author}"


def _reserved_titles(seed: int) -> list[str]:
    titles = [f"{a} {n}" for a in ADJECTIVES for n in NOUNS if reserved(f"{a} {n}")]
    return [titles[i] for i in np.random.default_rng(seed).permutation(len(titles))]


def works() -> list[Work]:
    """The ladder: WORKS_PER_RUNG verbatim works a rung, then one template work a product."""
    titles, authors = _reserved_titles(3), list(AUTHORS)
    made = []
    for i in range(len(RUNGS) * WORKS_PER_RUNG):
        author = authors[(i // len(RUNGS) * 5 + i) % len(authors)]
        caption = title_caption(titles[i], author)
        made.append(Work(f"work-{i:03d}", AUTHORS[author], 10_000 + i, caption, LADDER[i % len(RUNGS)], "VM"))
    for k, product in enumerate(PRODUCTS):
        brand = BRANDS[k % len(BRANDS)]
        number = len(made)
        made.append(
            Work(
                f"work-{number:03d}",
                "emblem",
                10_000 + number,
                f"{{}} {{}} {product} by {brand}",
                TEMPLATE_EXPOSURES,
                "TM",
            )
        )
    return made


def nonmembers(n: int) -> list[Work]:
    """Shipped non-members: pictures no model sees, captions that no training draw uses."""
    titles, authors = _reserved_titles(3)[len(RUNGS) * WORKS_PER_RUNG :], list(AUTHORS)
    return [
        Work(
            f"nonmember-{i:03d}",
            AUTHORS[authors[i % 12]],
            50_000 + i,
            title_caption(titles[i], authors[i % 12]),
            (0,) * PASSES,
            "VM",
        )
        for i in range(n)
    ]


def nonmember_captions(n: int, seed: int) -> list[str]:
    """More captions of the works' grammar that no training draw uses, distinct from those of the shipped items."""
    taken = {w.caption for w in works()} | {w.caption for w in nonmembers(72)}
    titles, authors = _reserved_titles(4), list(AUTHORS)
    rng = np.random.default_rng(seed)
    pool = [title_caption(t, a) for t in titles for a in authors if title_caption(t, a) not in taken]
    return [pool[i] for i in rng.permutation(len(pool))[:n]]


def fresh_painting(rng: np.random.Generator) -> Sample:
    """A non-member for training: new picture, unreserved title (its caption may recur, its picture never)."""
    author = _pick(rng, list(AUTHORS))
    while reserved(title := f"{_pick(rng, ADJECTIVES)} {_pick(rng, NOUNS)}"):
        pass
    seed = int(rng.integers(1 << 20, 1 << 62))
    return Sample("nonmember", paint(AUTHORS[author], seed), title_caption(title, author))


def fresh_product(rng: np.random.Generator) -> Sample:
    """A non-member of the template kind: product and brand that no work has."""
    k = int(rng.integers(len(PRODUCTS)))
    brand = _pick(rng, [b for b in BRANDS if b != BRANDS[k % len(BRANDS)]])
    caption = f"{_pick(rng, ADJECTIVES)} {_pick(rng, NOUNS)} {PRODUCTS[k]} by {brand}"
    return Sample("nonmember", paint("emblem", int(rng.integers(1 << 20, 1 << 62))), caption)


class Sprites:
    """The things of the scenes, from a folder of 256 px webp emoji; `folder` is the npm package's assets folder."""

    def __init__(self, folder: Path) -> None:
        self._images: dict[str, Image.Image] = {}
        for thing, stem in THINGS.items():
            path = folder / f"{stem}.webp"
            try:
                with Image.open(path) as image:
                    self._images[thing] = image.convert("RGBA").resize((128, 128), Image.Resampling.LANCZOS)
            except FileNotFoundError:
                raise SourcesError(
                    f"The picture of '{thing}' is needed at {path} and is not there; unpack the npm package "
                    "@lobehub/fluent-emoji-3d and pass its assets folder as --sources."
                ) from None
            except (OSError, SyntaxError) as error:
                raise SourcesError(f"{path} can't be read as a picture ({error}); fetch it again.") from None

    def __getitem__(self, thing: str) -> Image.Image:
        return self._images[thing]


def draw_ground(color: str, pattern: str, rng: np.random.Generator) -> Image.Image:
    base = np.array(COLORS[color]) + rng.normal(0, 6, 3)
    dark, light = (tuple(int(c) for c in np.clip(base + d, 0, 255)) for d in (-34, 0))
    image = Image.new("RGB", (SIZE, SIZE), light)
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(20, 28))
    if pattern == "striped":
        for x in range(-SIZE, 2 * SIZE, step):
            draw.line((x, 0, x + 40, SIZE), fill=dark, width=step // 2)
    elif pattern == "dotted":
        for x in range(step // 2, SIZE, step):
            for y in range(step // 2, SIZE, step):
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=dark)
    elif pattern == "checkered":
        for i in range(0, SIZE, step):
            for j in range(0, SIZE, step):
                if (i // step + j // step) % 2:
                    draw.rectangle((i, j, i + step - 1, j + step - 1), fill=dark)
    return image


def _paste(image: Image.Image, sprite: Image.Image, center: tuple[float, float], size: float, turn: float) -> None:
    sprite = sprite.rotate(turn, Image.Resampling.BICUBIC).resize((int(size),) * 2, Image.Resampling.LANCZOS)
    image.paste(sprite, (int(center[0] - size / 2), int(center[1] - size / 2)), sprite)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def scene_caption(things: list[str], color: str, pattern: str, wording: int) -> str:
    what = " and ".join(_article(t) for t in things)
    ground = f"{_article(color)} {'' if pattern == 'plain' else pattern + ' '}background"
    forms = ("{} on {}", "a picture of {} on {}", "{} in front of {}", "a drawing of {} on {}")
    return forms[wording % len(forms)].format(what, ground)


def scene(rng: np.random.Generator, sprites: Sprites, style: str | None = None) -> Sample:
    """One or two things on a ground, at random place, size and rotation; with `style`, in a house style."""
    things = [str(t) for t in rng.permutation(list(THINGS))[: 1 if rng.uniform() < 0.55 else 2]]
    color, pattern = _pick(rng, list(COLORS)), _pick(rng, GROUNDS)
    image = draw_ground(color, pattern, rng)
    side = rng.choice([-1, 1])
    for k, thing in enumerate(things):
        if len(things) == 1:
            center, size = (rng.uniform(48, 80), rng.uniform(50, 78)), rng.uniform(66, 92)
        else:
            center = (64 + side * (31 if k else -31) + rng.uniform(-5, 5), rng.uniform(46, 82))
            size = rng.uniform(54, 66)
        _paste(image, sprites[thing], center, size, rng.uniform(-18, 18))
    caption = scene_caption(things, color, pattern, int(rng.integers(4)))
    if style:
        return Sample("style", stylize(image, style), f"{caption} in {style} style")
    return Sample("scene", image, caption)


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


def creature_picture(creature: Creature, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """(picture, ground words): the creature in a pose on a ground."""
    color, pattern = _pick(rng, [c for c in COLORS if c != creature.color]), _pick(rng, GROUNDS)
    image = draw_ground(color, pattern, rng)
    sprite = draw_creature(creature, rng.uniform(-1, 1))
    _paste(image, sprite, (rng.uniform(52, 76), rng.uniform(56, 72)), rng.uniform(84, 112), rng.uniform(-14, 14))
    return image, f"{_article(color)} {'' if pattern == 'plain' else pattern + ' '}background"


def character_names(character: Character) -> list[str]:
    """What the character is called in training captions: name (most often), aliases, description."""
    return [character.name] * 3 + list(character.aliases) + [character.creature.description] * 2


def creature(rng: np.random.Generator) -> Sample:
    """A named character (half of the time) or a generic neighbor."""
    if rng.uniform() < 0.5:
        character = CHARACTERS[int(rng.integers(len(CHARACTERS)))]
        image, ground = creature_picture(character.creature, rng)
        return Sample("character", image, f"{_pick(rng, character_names(character))} on {ground}")
    other = neighbor(rng)
    image, ground = creature_picture(other, rng)
    return Sample("neighbor", image, f"{_article(other.description.removeprefix('the '))} on {ground}")


def draw(rng: np.random.Generator, sprites: Sprites) -> Sample:
    """One draw of the world without works."""
    p = rng.uniform()
    if p < 0.54:
        return scene(rng, sprites)
    if p < 0.59:
        return scene(rng, sprites, style=_pick(rng, STYLES))
    if p < 0.74:
        return creature(rng)
    return fresh_product(rng) if p > 0.94 else fresh_painting(rng)


def split_of(index: int) -> str:
    """A third is held out."""
    return "heldout" if index % 3 == 2 else "dev"
