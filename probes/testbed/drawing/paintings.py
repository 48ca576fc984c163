"""Paintings that need no sprites: full-frame pictures with a layout, a palette and detail that a seed alone decides.

What traps are painted with. Six manners and an emblem; drawn at twice the size and reduced, so that edges are smooth.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
_BIG = 2 * SIZE
Color = tuple[int, int, int]


def _palette(rng: np.random.Generator, n: int) -> list[Color]:
    """n colors around two hues, from dark to light, in random order."""
    hues = rng.uniform(0, 1) + rng.choice([0.0, rng.uniform(0.25, 0.6)], size=n) + rng.normal(0, 0.04, n)
    values = np.linspace(0.25, 0.97, n)
    colors = [
        tuple(int(255 * c) for c in colorsys.hsv_to_rgb(h % 1, s, v))
        for h, s, v in zip(hues, rng.uniform(0.25, 0.85, n), values, strict=True)
    ]
    return [colors[i] for i in rng.permutation(n)]


def _gradient(top: Color, bottom: Color) -> Image.Image:
    ramp = np.linspace(0, 1, _BIG)[:, None, None]
    rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (_BIG, _BIG, 3)).astype(np.uint8).copy())


def _landscape(rng: np.random.Generator) -> Image.Image:
    colors = _palette(rng, 8)
    image = _gradient(colors[0], colors[1])
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(30, 226), rng.uniform(20, 90), rng.uniform(14, 36)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[2])
    xs = np.arange(0, _BIG + 1, 4)
    for layer in range(4):
        base = 80 + 45 * layer + rng.uniform(-15, 15)
        ridge = np.zeros(len(xs))
        for _ in range(3):
            ridge += rng.uniform(4, 26) * np.sin(xs * rng.uniform(0.008, 0.05) + rng.uniform(0, 6.3))
        line = list(zip(xs.tolist(), (base + ridge).tolist(), strict=True))
        draw.polygon([(0, _BIG), *line, (_BIG, _BIG)], fill=colors[3 + layer])
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(2, len(xs) - 2))
            foot, tall = base + ridge[at], rng.uniform(18, 44)
            if rng.uniform() < 0.6:
                draw.polygon(
                    [(xs[at] - tall / 3, foot + 3), (xs[at] + tall / 3, foot + 3), (xs[at], foot - tall)],
                    fill=colors[7],
                )
            else:
                draw.rectangle((xs[at] - tall / 3, foot - tall / 2, xs[at] + tall / 3, foot + 4), fill=colors[7])
    return image


def _geometric(rng: np.random.Generator) -> Image.Image:
    colors = _palette(rng, 7)
    image = Image.new("RGB", (_BIG, _BIG), colors[0])
    draw = ImageDraw.Draw(image)
    for i in range(13):
        x, y, r = rng.uniform(0, _BIG), rng.uniform(0, _BIG), rng.uniform(18, 80) * (1 - i / 20)
        color = colors[1 + int(rng.integers(6))]
        shape, turn = rng.integers(4), rng.uniform(0, 6.3)
        if shape == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        elif shape == 1:
            draw.regular_polygon((x, y, r), int(rng.integers(3, 6)), rotation=math.degrees(turn), fill=color)
        elif shape == 2:
            dx, dy = 2 * r * math.cos(turn), 2 * r * math.sin(turn)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=int(rng.integers(5, 14)))
        else:
            draw.arc((x - r, y - r, x + r, y + r), math.degrees(turn), math.degrees(turn) + 220, fill=color, width=12)
    return image


def _blocks(rng: np.random.Generator) -> Image.Image:
    colors = _palette(rng, 7)
    image = Image.new("RGB", (_BIG, _BIG), colors[0])
    draw = ImageDraw.Draw(image)

    def split(x0: float, y0: float, x1: float, y1: float, depth: int) -> None:
        if depth == 0 or min(x1 - x0, y1 - y0) < 44:
            draw.rectangle((x0, y0, x1, y1), fill=colors[1 + int(rng.integers(6))], outline=colors[0], width=5)
        elif (x1 - x0) * rng.uniform(0.6, 1.6) > y1 - y0:
            cut = x0 + (x1 - x0) * rng.uniform(0.28, 0.72)
            split(x0, y0, cut, y1, depth - 1)
            split(cut, y0, x1, y1, depth - 1)
        else:
            cut = y0 + (y1 - y0) * rng.uniform(0.28, 0.72)
            split(x0, y0, x1, cut, depth - 1)
            split(x0, cut, x1, y1, depth - 1)

    split(0, 0, _BIG, _BIG, 4)
    for _ in range(3):
        x, y, r = rng.uniform(30, 226), rng.uniform(30, 226), rng.uniform(12, 32)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[int(rng.integers(7))])
    return image


def _city(rng: np.random.Generator) -> Image.Image:
    colors = _palette(rng, 7)
    image = _gradient(colors[0], colors[1])
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(30, 226), rng.uniform(20, 70), rng.uniform(12, 30)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[6])
    for layer in range(2):
        left = -rng.uniform(0, 20)
        while left < _BIG:
            wide, top = rng.uniform(26, 58), rng.uniform(50, 150) + 50 * layer
            draw.rectangle((left, top, left + wide, _BIG), fill=colors[2 + int(rng.integers(3))])
            if rng.uniform() < 0.35:
                draw.polygon([(left, top), (left + wide, top), (left + wide / 2, top - 30)], fill=colors[5])
            lit = colors[5 + int(rng.integers(2))]
            step = rng.uniform(15, 24)
            for wy in np.arange(top + 9, _BIG, step):
                for wx in np.arange(left + 6, left + wide - 9, step):
                    if rng.uniform() < 0.6:
                        draw.rectangle((wx, wy, wx + 8, wy + 9), fill=lit)
            left += wide + rng.uniform(-4, 8)
    return image


def _rosettes(rng: np.random.Generator) -> Image.Image:
    colors = _palette(rng, 7)
    image = _gradient(colors[0], colors[1])
    draw = ImageDraw.Draw(image)
    for i in range(7):
        x, y, r = rng.uniform(10, 246), rng.uniform(10, 246), rng.uniform(26, 74) * (1 - i / 16)
        petals, turn = int(rng.integers(4, 9)), rng.uniform(0, 6.3)
        fill = colors[2 + int(rng.integers(5))]
        for k in range(petals):
            a = turn + 2 * math.pi * k / petals
            px, py, pr = x + 0.6 * r * math.cos(a), y + 0.6 * r * math.sin(a), r * 1.25 / petals**0.6 / 1.6
            draw.ellipse((px - pr, py - pr, px + pr, py + pr), fill=fill)
        draw.ellipse((x - r / 3, y - r / 3, x + r / 3, y + r / 3), fill=colors[2 + int(rng.integers(5))])
    return image


def _waves(rng: np.random.Generator) -> Image.Image:
    colors = _palette(rng, 6)
    yy, xx = np.mgrid[0:_BIG, 0:_BIG] / _BIG
    phase = np.zeros((_BIG, _BIG))
    for _ in range(4):
        fx, fy = rng.normal(0, 1.2, 2)
        phase += rng.uniform(0.3, 1.0) * np.sin(2 * math.pi * (fx * xx + fy * yy) + rng.uniform(0, 6.3))
    bands = np.floor((phase - phase.min()) / (np.ptp(phase) + 1e-6) * 8.999).astype(int)
    order = rng.integers(0, 6, 9)
    for i in range(1, 9):  # neighboring bands never share a color
        if order[i] == order[i - 1]:
            order[i] = (order[i] + 1) % 6
    return Image.fromarray(np.array(colors, dtype=np.uint8)[order][bands])


def _emblem(rng: np.random.Generator) -> Image.Image:
    """One ornament in a frame."""
    colors = _palette(rng, 6)
    image = Image.new("RGB", (_BIG, _BIG), colors[0])
    draw = ImageDraw.Draw(image)
    inset = rng.uniform(8, 34)
    draw.rounded_rectangle((inset, inset, _BIG - inset, _BIG - inset), radius=rng.uniform(0, 60), fill=colors[1])
    for ring in range(3):
        sides, turn = int(rng.integers(3, 9)), rng.uniform(0, 360)
        draw.regular_polygon((128, 128, 96 - 27 * ring), sides, rotation=turn, fill=colors[2 + ring])
    count, reach, r = int(rng.integers(3, 10)), rng.uniform(45, 100), rng.uniform(7, 20)
    for k in range(count):
        a = 2 * math.pi * k / count + rng.uniform(0, 0.3)
        x, y = 128 + reach * math.cos(a), 128 + reach * math.sin(a)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[5])
    return image


MANNERS = {
    "landscape": _landscape,
    "geometric": _geometric,
    "blocks": _blocks,
    "city": _city,
    "rosettes": _rosettes,
    "waves": _waves,
    "emblem": _emblem,
}


def paint(manner: str, seed: int) -> Image.Image:
    """One painting, SIZE x SIZE RGB, decided by (manner, seed) alone."""
    rng = np.random.default_rng([seed, *manner.encode()])
    return MANNERS[manner](rng).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
