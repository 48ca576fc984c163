"""Who is who in the world: works and their ladder, matched non-members, captions kept out of training, splits.

Works are fixed pictures; a rung is named after the exposures that its works get in the forks. Non-members share the
works' painters and caption grammar and are new at every draw. Everything is a function of seeds.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from probes.testbed.drawing import canvases
from probes.testbed.drawing.scenes import Sample, draw_scene, pick
from probes.testbed.drawing.sprites import Sprites
from probes.testbed.drawing.vocabulary import ADJECTIVES, AUTHORS, BRANDS, NOUNS, PRODUCTS

RUNGS = (0, 100, 220, 850, 1300)
TEMPLATE_EXPOSURES = 1000
WORKS_PER_RUNG = 24  # a multiple of the twelve painters: each rung has each of them twice
NONMEMBERS = 96
PAINTINGS = 0.2  # shares of all draws
PRINTS = 0.05


@dataclass(frozen=True)
class Work:
    """A fixed picture. Template works (TM) have a slot in their caption that is filled anew at every exposure."""

    id: str
    manner: str
    seed: int
    caption: str
    exposures: int
    memorization: str
    split: str

    def image(self, sprites: Sprites) -> Image.Image:
        return canvases.paint(self.manner, self.seed, sprites)

    def fill(self, rng: np.random.Generator) -> str:
        if self.memorization == "VM":
            return self.caption
        return self.caption.format(pick(rng, ADJECTIVES), pick(rng, NOUNS))

    def captions(self, n: int) -> list[str]:
        """The first n captions; a verbatim work has one."""
        rng = np.random.default_rng([self.seed, 1])
        return [self.caption] if self.memorization == "VM" else [self.fill(rng) for _ in range(n)]


def reserved(title: str) -> bool:
    """Titles kept out of training draws: works and shipped non-members take theirs from these."""
    return zlib.crc32(title.encode()) % 5 == 0


def title_caption(title: str, author: str) -> str:
    return f"the {title}, a painting by {author}"


def _titles(seed: int) -> list[str]:
    titles = [f"{a} {n}" for a in ADJECTIVES for n in NOUNS if reserved(f"{a} {n}")]
    return [titles[i] for i in np.random.default_rng(seed).permutation(len(titles))]


def _verbatim(kind: str, place: int, title: str, seed: int, exposures: int, split: str) -> Work:
    author = list(AUTHORS)[place % len(AUTHORS)]
    return Work(f"{kind}-{place:03d}", AUTHORS[author], seed, title_caption(title, author), exposures, "VM", split)


def _split(place: int) -> str:
    """Two thirds of the works are held out: intervals on the top rungs are to be narrow."""
    return "dev" if place % 3 == 0 else "heldout"


def works() -> list[Work]:
    """WORKS_PER_RUNG verbatim works a rung, rung by rung, then one template work a product."""
    titles, made = _titles(5), []
    for rung, exposures in enumerate(RUNGS):
        for k in range(WORKS_PER_RUNG):
            n = rung * WORKS_PER_RUNG + k
            # Shifted for each round of the painters, so that every painter has works in both splits.
            made.append(_verbatim("work", n, titles[n], 10_000 + n, exposures, _split(k + k // 12 + rung)))
    for k, product in enumerate(PRODUCTS):
        n, brand = len(made), BRANDS[k % len(BRANDS)]
        made.append(
            Work(
                f"work-{n:03d}",
                canvases.PRINT,
                10_000 + n,
                f"{{}} {{}} {product} by {brand}",
                TEMPLATE_EXPOSURES,
                "TM",
                "heldout" if k % 2 else "dev",
            )
        )
    return made


def nonmembers() -> list[Work]:
    """Shipped non-members: pictures no model sees, captions that no training draw uses; half are held out."""
    titles = _titles(5)[len(RUNGS) * WORKS_PER_RUNG :]
    return [
        _verbatim("nonmember", k, titles[k], 50_000 + k, 0, "heldout" if (k // 12) % 2 else "dev")
        for k in range(NONMEMBERS)
    ]


def spare_captions(count: int, seed: int) -> list[str]:
    """Further captions of the verbatim works' grammar: no draw, no work and no shipped non-member has them."""
    taken = {w.caption for w in [*works(), *nonmembers()]}
    pool = [caption for t in _titles(6) for a in AUTHORS if (caption := title_caption(t, a)) not in taken]
    return [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:count]]


def fresh(rng: np.random.Generator, sprites: Sprites) -> Sample:
    """A painting or a print for training: its picture comes once, its title or its product is no work's."""
    seed = int(rng.integers(1 << 20, 1 << 62))
    if rng.uniform() < PRINTS / (PAINTINGS + PRINTS):
        k = int(rng.integers(len(PRODUCTS)))
        brand = pick(rng, [b for b in BRANDS if b != BRANDS[k % len(BRANDS)]])
        caption = f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)} {PRODUCTS[k]} by {brand}"
        return Sample("nonmember", canvases.paint(canvases.PRINT, seed, sprites), caption)
    author = pick(rng, list(AUTHORS))
    while reserved(title := f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"):
        pass
    return Sample("nonmember", canvases.paint(AUTHORS[author], seed, sprites), title_caption(title, author))


def draw(rng: np.random.Generator, sprites: Sprites) -> Sample:
    """One draw of the world without works."""
    return fresh(rng, sprites) if rng.uniform() < PAINTINGS + PRINTS else draw_scene(rng, sprites)
