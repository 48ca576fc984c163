"""Further pictures of the kinds that the shipped works are of: no model saw them, and they copy no work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from probes.testbed.manifest import SPRITES, Manifest

if TYPE_CHECKING:
    from probes.testbed.second.sprites import Sprites


def fresh_pictures(manifest: Manifest) -> Callable[[np.random.Generator], Image.Image]:
    """Draws one more such picture, decided by the generator alone.

    The second testbed's are composed of the sprites that ship with it; the first's need none.
    """
    folder = manifest.folder / SPRITES
    if not folder.is_dir():
        from probes.testbed.pool import draw_fresh

        return lambda rng: draw_fresh(rng).image
    from probes.testbed.second.world import fresh

    sprites = _sprites(folder)
    return lambda rng: fresh(rng, sprites).image


@cache
def _sprites(folder: Path) -> Sprites:
    from probes.testbed.second.sprites import Sprites

    return Sprites(folder)
