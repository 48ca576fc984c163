"""Twelve kinds of backdrops for paintings: what a seed and a manner's name decide, with soft edges and soft textures.

Everything is drawn with numpy at the final size: a shape is a distance in pixels that `soft` turns into a mask about
two pixels wide at its edge, and textures are interpolated random grids, so that an autoencoder of this size can keep
them.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

SIZE = 128
Rng = np.random.Generator
Array = np.ndarray
Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def color(rng: Rng, hue: float, saturation: tuple[float, float], value: tuple[float, float]) -> Array:
    """(3,) RGB in 0..1 near `hue`."""
    h = (hue + rng.normal(0, 0.03)) % 1
    return np.array(colorsys.hsv_to_rgb(h, rng.uniform(*saturation), rng.uniform(*value)), dtype=np.float32)


def tint(values: list[float]) -> Array:
    return np.array(values, dtype=np.float32)


def hues(rng: Rng) -> tuple[float, float, float]:
    """Sky, ground, accent: three hues of a painting's own, at times natural, at times not."""
    sky = rng.uniform()
    return sky, (sky + rng.choice([0.08, 0.2, 0.33, 0.5, 0.67]) + rng.normal(0, 0.03)) % 1, rng.uniform()


def noise(rng: Rng, across: int, down: int | None = None, octaves: int = 3) -> Array:
    """(SIZE, SIZE) smooth noise in 0..1 with `across` x `down` cells in its coarsest octave."""
    total, down = np.zeros((SIZE, SIZE), dtype=np.float32), down or across
    for k in range(octaves):
        grid = rng.uniform(size=(down * 2**k + 1, across * 2**k + 1)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) * 0.5**k
    low, high = total.min(), total.max()
    return (total - low) / (high - low + 1e-6)


def soft(distance: Array, width: float = 2.0) -> Array:
    """Mask of where a distance in pixels is positive, with an edge `width` pixels wide."""
    return np.clip(distance / width + 0.5, 0, 1)


def blend(picture: Array, mask: Array, paint: Array) -> Array:
    """`paint` ((3,) or (H, W, 3)) where the mask is 1."""
    return picture + mask[..., None] * (paint - picture)


def ramp(along: Array, start: Array, end: Array) -> Array:
    return start + np.clip(along, 0, 1)[..., None] * (end - start)


def shaded(paint: Array, texture: Array, depth: float) -> Array:
    """A color lightened and darkened by a texture around 0.5."""
    return np.clip(paint * (1 + depth * (texture[..., None] - 0.5) * 2), 0, 1)


def disc(x: float, y: float, r: float, flat: float = 1.0) -> Array:
    """Distance in pixels to the inside of an ellipse that is `flat` times as tall as wide."""
    return r - np.hypot(X - x, (Y - y) / flat)


def ridge(rng: Rng, height: float, swing: float, cells: int) -> Array:
    """(SIZE,) heights of a line of hills in pixels from the top."""
    grid = rng.uniform(-1, 1, size=(1, cells + 1)).astype(np.float32)
    fine = rng.uniform(-0.3, 0.3, size=(1, 3 * cells + 1)).astype(np.float32)
    line = sum(np.asarray(Image.fromarray(g).resize((SIZE, 1), Image.Resampling.BICUBIC))[0] for g in (grid, fine))
    return height + swing * line


def sky(rng: Rng, hue: float, horizon: float = 80.0) -> Array:
    """Gradient, clouds, and at times a sun or a moon."""
    dark = rng.uniform() < 0.25
    top = color(rng, hue, (0.3, 0.85), (0.2, 0.45) if dark else (0.6, 0.95))
    low = color(rng, hue + rng.choice([0, 0.1, -0.1, 0.4]), (0.15, 0.7), (0.4, 0.65) if dark else (0.8, 1.0))
    picture = ramp(Y / horizon, top, low)
    clouds = np.clip((noise(rng, 2, 4) - rng.uniform(0.45, 0.6)) * 4, 0, 1)
    picture = blend(picture, clouds * rng.uniform(0.3, 0.8), np.clip(low + rng.uniform(0.1, 0.35), 0, 1))
    if rng.uniform() < 0.7:
        x, y, r = rng.uniform(14, 114), rng.uniform(12, horizon * 0.6), rng.uniform(8, 20)
        sun = color(rng, rng.choice([0.02, 0.1, 0.14, hue]), (0.05, 0.75), (0.9, 1.0))
        picture = blend(picture, np.clip(1 - np.hypot(X - x, Y - y) / (3.2 * r), 0, 1) ** 2 * 0.6, sun)
        picture = blend(picture, soft(disc(x, y, r)), sun)
    return picture


def mountains(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    picture = sky(rng, above)
    haze = picture[60, 64].copy()
    snow = rng.uniform() < 0.6
    for layer, share in enumerate((0.45, 0.7, 0.95)):
        height, swing = 46 + 20 * layer + rng.uniform(-8, 8), rng.uniform(14, 34) - 5 * layer
        line = ridge(rng, height, swing, int(rng.integers(2, 6)))
        paint = haze + share * (color(rng, below + 0.05 * layer, (0.3, 0.7), (0.25, 0.6)) - haze)
        body = shaded(paint, noise(rng, 5, 5), 0.3)
        if snow and layer == 0:
            body = blend(body, soft(line + 14 + 8 * noise(rng, 8) - Y, 3), tint([0.95, 0.96, 1.0]))
        picture = blend(picture, soft(Y - line), body)
    front = ridge(rng, rng.uniform(98, 110), 6, 3)
    return blend(picture, soft(Y - front), shaded(color(rng, accent, (0.4, 0.8), (0.3, 0.7)), noise(rng, 6, 6), 0.35))


def sea(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    horizon = rng.uniform(40, 84)
    picture = sky(rng, above, horizon)
    near, far = (color(rng, below, (0.45, 0.9), v) for v in ((0.2, 0.45), (0.5, 0.85)))
    water = shaded(ramp((Y - horizon) / (SIZE - horizon), far, near), noise(rng, 3, 14, 2), 0.35)
    picture = blend(picture, soft(Y - horizon), water)
    side = rng.choice([-1, 1])
    for k in range(int(rng.integers(1, 4))):
        at, wide = 64 + side * rng.uniform(-10, 60), rng.uniform(18, 46)
        tall = rng.uniform(14, 40)
        cliff = horizon + 3 + 5 * k - tall * np.clip(1.4 - ((X - at) / wide) ** 2 - 0.4 * noise(rng, 6, 2), 0, 1)
        mask = soft(Y - cliff) * soft(horizon + 3 + 5 * k - Y) * soft(wide * 1.15 - np.abs(X - at))
        picture = blend(picture, mask, shaded(color(rng, accent, (0.2, 0.6), (0.25, 0.6)), noise(rng, 8, 4), 0.4))
    if rng.uniform() < 0.5:
        beach = ridge(rng, rng.uniform(104, 116), 8, 2)
        sand = shaded(color(rng, 0.1, (0.2, 0.5), (0.7, 0.95)), noise(rng, 9), 0.1)
        picture = blend(picture, soft(Y - beach, 4), sand)
    return picture


def city(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    picture = sky(rng, above, 110)
    lit = color(rng, accent, (0.2, 0.7), (0.85, 1.0))
    for layer in range(2):
        left = -rng.uniform(0, 14)
        paint = color(rng, below, (0.2, 0.7), (0.45, 0.75) if layer == 0 else (0.15, 0.4))
        while left < SIZE:
            wide, top = rng.uniform(16, 34), rng.uniform(22, 66) + 34 * layer
            inside = np.minimum(np.minimum(X - left, left + wide - X), Y - top)
            if rng.uniform() < 0.3:  # a pointed roof
                inside = np.maximum(inside, np.minimum(Y - top + 14, 7 + (Y - top) * 0.6 - np.abs(X - left - wide / 2)))
            if rng.uniform() < 0.15:  # a dome
                inside = np.maximum(inside, disc(left + wide / 2, top, wide / 2))
            wall = shaded(paint * rng.uniform(0.75, 1.3), noise(rng, 3, 3, 2), 0.2)
            step = rng.uniform(9, 13)
            windows = soft(2.4 - np.abs((X - left) % step - step / 2)) * soft(2.8 - np.abs((Y - top) % step - step / 2))
            shown = noise(rng, 12, 12, 1) > rng.uniform(0.25, 0.7)
            wall = blend(wall, windows * shown * (Y < 122) * 0.9, lit)
            picture = blend(picture, soft(inside), np.clip(wall, 0, 1))
            left += wide + rng.uniform(-2, 4)
    return picture


def meadow(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    picture = sky(rng, above, 64)
    for layer in range(3):
        line = ridge(rng, 52 + 22 * layer, rng.uniform(6, 14), int(rng.integers(1, 4)))
        paint = color(rng, below + 0.03 * layer, (0.4, 0.85), (0.75 - 0.15 * layer, 0.9 - 0.15 * layer))
        picture = blend(picture, soft(Y - line), shaded(paint, noise(rng, 10, 5), 0.22))
    if rng.uniform() < 0.6:  # a path or a brook toward the horizon
        depth = np.clip((Y - 60) / 68, 0, 1)
        middle = rng.uniform(40, 90) + rng.uniform(-40, 40) * depth + 14 * np.sin(depth * rng.uniform(3, 7))
        path = soft(2 + 15 * depth - np.abs(X - middle), 3) * (Y > 60)
        picture = blend(picture, path, color(rng, accent + 0.5, (0.1, 0.5), (0.6, 0.95)))
    flower = color(rng, accent, (0.5, 0.95), (0.8, 1.0))
    for _ in range(int(rng.integers(8, 26))):
        y = rng.uniform(70, 126)
        picture = blend(picture, soft(disc(rng.uniform(0, SIZE), y, 1.2 + 3.2 * (y - 60) / 68)), flower)
    return picture


def desert(rng: Rng) -> Array:
    above, below, _ = hues(rng)
    picture = sky(rng, above, 70)
    for layer in range(4):
        line = ridge(rng, 50 + 18 * layer, 14, int(rng.integers(1, 3)))
        light, dark = (color(rng, below, (0.3, 0.7), v) for v in ((0.75, 0.98), (0.35, 0.6)))
        slope = np.gradient(line)[None] * rng.choice([-1, 1]) * 2.2
        ripples = 0.5 + 0.5 * np.sin((Y - line + 6 * noise(rng, 3)) * rng.uniform(0.5, 0.8))
        body = ramp(0.5 + slope + 0.012 * (Y - line), light, dark)
        picture = blend(picture, soft(Y - line), shaded(np.clip(body, 0, 1), ripples, 0.08))
    return picture


def forest(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    back = color(rng, above, (0.2, 0.6), (0.6, 0.95))
    picture = ramp(Y / SIZE, back, back * rng.uniform(0.5, 0.8))
    picture = shaded(picture, noise(rng, 4, 4), 0.25)
    ground = rng.uniform(84, 108)
    picture = blend(
        picture,
        soft(Y - ridge(rng, ground, 5, 3)),
        shaded(color(rng, accent, (0.3, 0.7), (0.3, 0.7)), noise(rng, 12, 6), 0.3),
    )
    for k in range(int(rng.integers(5, 10))):
        near = k / 9
        x, wide, lean = rng.uniform(0, SIZE), 2 + 6 * near * rng.uniform(0.7, 1.3), rng.uniform(-0.12, 0.12)
        foot = ground + 4 + 16 * near
        bark = back + (0.4 + 0.6 * near) * (color(rng, below, (0.2, 0.6), (0.15, 0.45)) - back)
        trunk = soft(wide - np.abs(X - x - lean * (foot - Y))) * soft(foot - Y)
        picture = blend(picture, trunk, shaded(bark, noise(rng, 16, 4, 2), 0.3))
    leaves = color(rng, below + 0.3, (0.4, 0.9), (0.35, 0.9))
    crown = np.clip((noise(rng, 6, 6) * 1.6 - Y / rng.uniform(44, 80)) * 5, 0, 1)
    picture = blend(picture, crown, shaded(leaves, noise(rng, 9, 9), 0.5))
    if rng.uniform() < 0.5:
        beams = np.clip(np.sin((X + 0.6 * Y) * 0.13 + rng.uniform(0, 6)) - 0.3, 0, 1)
        picture = blend(picture, beams * 0.35, tint([1.0, 0.97, 0.8]))
    return picture


def parlor(rng: Rng) -> Array:
    """A still life's room: a wall with paper, often a window, a table."""
    above, below, accent = hues(rng)
    wall = color(rng, above, (0.15, 0.7), (0.35, 0.9))
    other = np.clip(wall + rng.choice([-1, 1]) * rng.uniform(0.08, 0.18), 0, 1)
    step, kind = rng.uniform(14, 26), rng.integers(3)
    pattern = (
        soft(step / 4 - np.abs(X % step - step / 2))
        if kind == 0
        else soft(step / 4 - np.hypot(X % step - step / 2, Y % step - step / 2))
        if kind == 1
        else soft(step / 3 - np.abs((X + Y) % step - step / 2))
    )
    picture = shaded(blend(np.broadcast_to(wall, (SIZE, SIZE, 3)), pattern, other), noise(rng, 2, 2, 2), 0.2)
    if rng.uniform() < 0.75:  # a window or a picture on the wall
        x, y, w, h = rng.uniform(26, 102), rng.uniform(22, 44), rng.uniform(16, 30), rng.uniform(16, 30)
        inside = np.minimum(w - np.abs(X - x), h - np.abs(Y - y))
        picture = blend(picture, soft(inside), color(rng, accent, (0.2, 0.7), (0.3, 0.95)))
        view = sky(rng, rng.uniform(), y + h)
        hill = soft(Y - ridge(rng, y + h * 0.4, 8, 2))
        view = blend(view, hill, color(rng, rng.uniform(), (0.3, 0.8), (0.3, 0.8)))
        panes = inside - 4 if rng.uniform() < 0.5 else np.minimum(inside - 4, np.abs(X - x) - 1.5)
        picture = blend(picture, soft(panes), view)
    edge = rng.uniform(72, 96)
    cloth = color(rng, below, (0.3, 0.85), (0.3, 0.85))
    grain = noise(rng, 2, 16, 2) if rng.uniform() < 0.5 else noise(rng, 8, 8, 2)
    top = shaded(np.broadcast_to(cloth, (SIZE, SIZE, 3)), grain, 0.25)
    if rng.uniform() < 0.4:
        lines = soft(5 - np.abs(((X - 64) * 40 / (Y - edge + 40)) % 24 - 12), 3)
        top = blend(top, lines * 0.6, np.clip(cloth + 0.25, 0, 1))
    return blend(picture, soft(Y - edge + 0.08 * rng.normal() * (X - 64)), top)


def night(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    zenith, low = color(rng, above, (0.5, 0.95), (0.08, 0.25)), color(rng, above + 0.1, (0.4, 0.9), (0.25, 0.55))
    picture = ramp(Y / SIZE, zenith, low)
    for _ in range(int(rng.integers(1, 4))):  # lights in the north, or a nebula
        glow = color(rng, rng.choice([accent, below, above + 0.3]), (0.4, 0.95), (0.6, 1.0))
        middle = ridge(rng, rng.uniform(20, 80), 26, int(rng.integers(1, 4)))
        veil = np.clip(1 - np.abs(Y - middle) / rng.uniform(14, 36), 0, 1) ** 1.5 * 0.75
        picture = blend(picture, veil * noise(rng, 8, 2), glow)
    for _ in range(int(rng.integers(10, 26))):
        star = disc(rng.uniform(0, SIZE), rng.uniform(0, 90), rng.uniform(0.8, 2.2))
        picture = blend(picture, soft(star), tint([1, 1, 0.92]))
    picture = _planet(picture, rng, accent, below)
    for layer in range(2):
        line = ridge(rng, 96 + 14 * layer, rng.uniform(5, 18), int(rng.integers(2, 7)))
        hill = shaded(color(rng, below, (0.3, 0.8), (0.12, 0.35)), noise(rng, 6), 0.3)
        picture = blend(picture, soft(Y - line), hill)
    return picture


def _planet(picture: Array, rng: Rng, hue: float, ring_hue: float) -> Array:
    """A banded disc with a dark side, at times with a ring."""
    x, y, r = rng.uniform(24, 104), rng.uniform(20, 62), rng.uniform(10, 28)
    bands = shaded(color(rng, hue, (0.2, 0.8), (0.6, 1.0)), noise(rng, 1, int(rng.integers(3, 8)), 2), 0.4)
    dark = 1 - 0.5 * soft(-disc(x - r * 0.5, y - r * 0.3, r), 8)
    picture = blend(picture, soft(disc(x, y, r)), bands * dark[..., None])
    if rng.uniform() < 0.4:
        tilt = 0.3 * rng.normal()
        ring = soft(2 - np.abs(np.hypot(X - x, (Y - y - tilt * (X - x)) * 3.2) - r * 1.6))
        behind = soft(disc(x, y, r)) * (Y < y)
        picture = blend(picture, ring * (1 - behind), color(rng, ring_hue, (0.2, 0.6), (0.7, 1)))
    return picture


def reef(rng: Rng) -> Array:
    above, below, accent = hues(rng)
    water = color(rng, above, (0.4, 0.9), (0.5, 0.95))
    picture = ramp(Y / SIZE, water, color(rng, above + 0.05, (0.6, 0.95), (0.12, 0.4)))
    source = rng.uniform(-20, 148)
    rays = np.clip(np.sin(np.arctan2(X - source, Y + 30) * rng.uniform(14, 26) + rng.uniform(0, 6)), 0, 1)
    picture = blend(picture, rays * np.clip(1 - Y / 110, 0, 1) * 0.4, np.clip(water + 0.4, 0, 1))
    floor = ridge(rng, rng.uniform(96, 112), 9, 3)
    sand = shaded(color(rng, below, (0.2, 0.6), (0.4, 0.8)), noise(rng, 8, 8), 0.25)
    for _ in range(int(rng.integers(3, 8))):  # corals: fans of blobs, and weeds
        x, tall = rng.uniform(0, SIZE), rng.uniform(16, 50)
        paint = color(rng, rng.choice([accent, below + 0.4]), (0.5, 0.95), (0.4, 0.95))
        if rng.uniform() < 0.5:
            sway = x + 5 * np.sin(Y * rng.uniform(0.08, 0.16) + rng.uniform(0, 6))
            mask = soft(rng.uniform(2.5, 5) - np.abs(X - sway)) * soft(Y - (110 - tall))
        else:
            bumps = tall * 0.6 + 5 * np.sin(np.arctan2(Y - 112, X - x) * rng.integers(5, 11))
            mask = soft(bumps - np.hypot(X - x, Y - 112))
        picture = blend(picture, mask, shaded(paint, noise(rng, 10), 0.3))
    picture = blend(picture, soft(Y - floor, 3), sand)
    for _ in range(int(rng.integers(3, 9))):
        x, y, r = rng.uniform(4, 124), rng.uniform(4, 90), rng.uniform(2, 5)
        picture = blend(picture, soft(1.2 - np.abs(np.hypot(X - x, Y - y) - r)) * 0.7, tint([1, 1, 1]))
    return picture


def road(rng: Rng) -> Array:
    """A floor or a road toward a vanishing point, hills or walls beside it."""
    above, below, accent = hues(rng)
    horizon, vanish = rng.uniform(44, 72), rng.uniform(30, 98)
    picture = sky(rng, above, horizon)
    far = ridge(rng, horizon - 6, 9, 4)
    hills = shaded(color(rng, below + 0.15, (0.2, 0.6), (0.3, 0.7)), noise(rng, 6), 0.3)
    picture = blend(picture, soft(Y - far), hills)
    depth = np.clip(Y - horizon, 1, None)
    land = shaded(color(rng, below, (0.3, 0.8), (0.35, 0.85)), noise(rng, 10, 5), 0.25)
    if rng.uniform() < 0.5:
        wide = rng.uniform(0.5, 1.0)
        lane = soft(wide * depth - np.abs(X - vanish), 3)
        land = blend(land, lane, shaded(color(rng, accent, (0.02, 0.4), (0.25, 0.7)), noise(rng, 6, 12, 2), 0.15))
        dash = soft(0.05 * depth + 0.6 - np.abs(X - vanish)) * (np.sin(420 / (depth + 6) + rng.uniform(0, 6)) > 0)
        land = blend(land, dash, tint([0.98, 0.95, 0.75]))
    else:
        u, v = (X - vanish) / (depth + 8) * 40, 900 / (depth + 12)
        tiles = np.sin(u * rng.uniform(0.12, 0.2)) * np.sin(v * rng.uniform(0.25, 0.4) + rng.uniform(0, 6))
        land = blend(land, soft(tiles * 12, 3) * np.clip(depth / 14, 0, 1), color(rng, accent, (0.1, 0.8), (0.2, 0.95)))
    return blend(picture, soft(Y - horizon), land)


def swirls(rng: Rng) -> Array:
    """Warped bands of color, as marbled paper has."""
    count = int(rng.integers(4, 7))
    base = rng.uniform()
    shifts = rng.choice([0, 0.08, 0.5, 0.4], count)
    paints = np.stack([color(rng, base + shift, (0.3, 0.9), (0.25, 1.0)) for shift in shifts])
    turn = rng.uniform(0, math.pi)
    along = (X * math.cos(turn) + Y * math.sin(turn)) / SIZE
    center = np.hypot(X - rng.uniform(0, SIZE), Y - rng.uniform(0, SIZE)) / SIZE
    field = (along if rng.uniform() < 0.5 else center) * rng.uniform(2, 5)
    field = field + rng.uniform(1, 3) * noise(rng, int(rng.integers(2, 4)), octaves=2)
    position = field * 1.6 % count
    low = position.astype(int) % count
    share = np.clip((position % 1) * 5 - 2, 0, 1)[..., None]
    picture = paints[low] * (1 - share) + paints[(low + 1) % count] * share
    return shaded(picture, noise(rng, 6), 0.25)


def glass(rng: Rng) -> Array:
    """Leaded glass: cells of color around random points, with dark lines between them."""
    count = int(rng.integers(9, 22))
    points = rng.uniform(0, SIZE, (count, 2))
    base = rng.uniform()
    shifts = rng.choice([0, 0.1, 0.33, 0.55], count)
    paints = np.stack([color(rng, base + shift, (0.35, 0.95), (0.4, 1.0)) for shift in shifts])
    stretch = rng.uniform(0.6, 1.6)
    distance = np.hypot(X[..., None] - points[:, 0], (Y[..., None] - points[:, 1]) * stretch)
    order = np.argsort(distance, axis=2)[..., :2]
    first, second = (np.take_along_axis(distance, order[..., k : k + 1], 2)[..., 0] for k in range(2))
    picture = shaded(paints[order[..., 0]], noise(rng, 5), 0.3)
    picture = shaded(picture, np.clip(1 - first / 60, 0, 1), 0.25)
    lead = color(rng, rng.uniform(), (0.0, 0.4), (0.05, 0.3) if rng.uniform() < 0.7 else (0.85, 1.0))
    return blend(picture, soft(rng.uniform(1.6, 3) - (second - first) / 2), lead)


BACKDROPS: dict[str, Callable[[Rng], Array]] = {
    "mountains": mountains,
    "sea": sea,
    "city": city,
    "meadow": meadow,
    "desert": desert,
    "forest": forest,
    "parlor": parlor,
    "night": night,
    "reef": reef,
    "road": road,
    "swirls": swirls,
    "glass": glass,
}
