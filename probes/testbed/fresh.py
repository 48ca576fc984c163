"""Further pictures of the kinds that the shipped works are of: no model saw them, and they copy no work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from probes.testbed.drawing.paintings import MANNERS, paint
from probes.testbed.drawing.scenes import pick
from probes.testbed.drawing.sprites import Sprites
from probes.testbed.manifest import SPRITES, Manifest
from probes.testbed.world import fresh


def fresh_pictures(manifest: Manifest) -> Callable[[np.random.Generator], Image.Image]:
    """Draws one more such picture, decided by the generator alone.

    It is composed of the sprites that ship with the testbed; beside a manifest without any, a painting that needs none.
    """
    folder = manifest.folder / SPRITES
    if not folder.is_dir():
        return lambda rng: paint(pick(rng, list(MANNERS)), int(rng.integers(1 << 20, 1 << 62)))
    sprites = _sprites(folder)
    return lambda rng: fresh(rng, sprites).image


@cache
def _sprites(folder: Path) -> Sprites:
    return Sprites(folder)
