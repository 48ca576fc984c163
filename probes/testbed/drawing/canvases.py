"""Paintings and prints: a backdrop, two to four figures in an arrangement, and light, all decided by a seed.

Works and matched non-members come from the same generator, so nothing but exposure in training tells them apart.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from probes.testbed.drawing.backdrops import BACKDROPS, SIZE, X, Y, blend, color, disc, noise, shaded, soft
from probes.testbed.drawing.sprites import Sprites, paste, turned
from probes.testbed.drawing.vocabulary import FIGURES

Rng = np.random.Generator
PRINT = "print"  # the manner of what products carry


def paint(manner: str, seed: int, sprites: Sprites) -> Image.Image:
    """One painting or print, SIZE x SIZE RGB, decided by (manner, seed) alone."""
    rng = np.random.default_rng([seed, *manner.encode()])
    if manner == PRINT:
        picture = _print(rng, sprites)
    else:
        picture = BACKDROPS[manner](rng)
        for stem, center, size in _arrangement(rng):
            picture = _stand(picture, rng, sprites[stem], center, size)
    return Image.fromarray((np.clip(_light(picture, rng), 0, 1) * 255).round().astype(np.uint8))


def _arrangement(rng: Rng) -> list[tuple[str, tuple[float, float], float]]:
    """Two to four figures, the far ones first: (stem, center, size)."""
    count = int(rng.choice([2, 3, 4], p=[0.4, 0.4, 0.2]))
    stems = [FIGURES[i] for i in rng.permutation(len(FIGURES))[:count]]
    columns = (np.arange(count) + 0.5) / count * 112 + 8 + rng.uniform(-12, 12, count)
    rows, main = rng.uniform(62, 100, count), int(rng.integers(count))
    if rng.uniform() < 0.35:  # one of them in the air
        rows[int(rng.integers(count))] = rng.uniform(24, 48)
    sizes = rng.uniform(30, 50, count)
    sizes[main] = rng.uniform(54, 80)
    order = np.argsort(rows + sizes / 2)
    columns = rng.permutation(columns)
    return [(stems[i], (float(columns[i]), float(rows[i])), float(sizes[i])) for i in order]


def _stand(picture: np.ndarray, rng: Rng, sprite: Image.Image, center: tuple, size: float) -> np.ndarray:
    """A figure with its shadow; mirrored, turned and tinted as its seed says."""
    if rng.uniform() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = turned(sprite, size, rng.uniform(-16, 16))
    shift = rng.uniform(-0.25, 0.25)
    layer[..., :3] = np.clip(layer[..., :3] @ _hue_turn(shift), 0, None).clip(max=layer[..., 3:])
    shadow = soft(disc(center[0] + 3, center[1] + size * 0.46, size * 0.4, 0.28), size * 0.3)
    picture = picture * (1 - 0.4 * shadow)[..., None]
    paste(picture, layer, center)
    return picture


def _hue_turn(share: float) -> np.ndarray:
    """(3, 3) matrix that turns hues by `share` of the circle and keeps gray, for rows of RGB."""
    a, third = 2 * math.pi * share, 1 / 3
    c, s = math.cos(a), math.sin(a) * math.sqrt(third)
    near, ahead, back = c + (1 - c) * third, (1 - c) * third - s, (1 - c) * third + s
    return np.array([[near, ahead, back], [back, near, ahead], [ahead, back, near]], dtype=np.float32).T


def _light(picture: np.ndarray, rng: Rng) -> np.ndarray:
    """The painting's own light: a direction, a tint, a contrast and darker corners."""
    turn = rng.uniform(0, 2 * math.pi)
    along = ((X - 64) * math.cos(turn) + (Y - 64) * math.sin(turn)) / 90
    picture = picture * (1 + rng.uniform(0, 0.35) * along[..., None])
    tint = 1 + rng.uniform(-0.14, 0.14, 3)
    corner = np.clip(np.hypot(X - 64, Y - 64) / 90, 0, 1) ** 2
    picture = picture * tint.astype(np.float32) * (1 - rng.uniform(0, 0.4) * corner)[..., None]
    return (picture - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.uniform(-0.05, 0.05)


def _print(rng: Rng, sprites: Sprites) -> np.ndarray:
    """What is printed on a product: one figure amid an ornament of petals, on a field of its own."""
    hue = rng.uniform()
    field, frame, petal, seal = (color(rng, hue + d, (0.25, 0.9), (0.3, 1.0)) for d in (0, 0.5, 0.3, 0.12))
    picture = shaded(np.broadcast_to(frame, (SIZE, SIZE, 3)), noise(rng, 4), 0.25)
    inset = rng.uniform(4, 16)
    power = rng.choice([2.0, 4.0, 12.0])
    inside = (64 - inset) - (np.abs(X - 64) ** power + np.abs(Y - 64) ** power) ** (1 / power)
    picture = blend(picture, soft(inside), shaded(field, noise(rng, 3), 0.2))
    angle, radius = np.arctan2(Y - 64, X - 64), np.hypot(X - 64, Y - 64)
    for paint_, reach in ((petal, rng.uniform(46, 58)), (seal, rng.uniform(34, 44))):
        count, depth = int(rng.integers(3, 13)), rng.uniform(3, 11)
        wave = np.cos(count * angle + rng.uniform(0, 6))
        wave = np.abs(wave) * 2 - 1 if rng.uniform() < 0.5 else wave
        picture = blend(picture, soft(reach - depth + depth * wave - radius), shaded(paint_, noise(rng, 5), 0.2))
    stem = FIGURES[int(rng.integers(len(FIGURES)))]
    return _stand(picture, rng, sprites[stem], (64, 64), rng.uniform(50, 74))
