"""Stand-in sprites: colored discs under the files' real names."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from probes.testbed.drawing.sprites import Sprites
from probes.testbed.drawing.vocabulary import FIGURES, THINGS


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sprites")
    for n, stem in enumerate((*THINGS.values(), *FIGURES)):
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        ImageDraw.Draw(image).ellipse((12, 4, 52, 60), fill=(7 * n % 256, 40 * n % 256, 200, 255))
        image.save(folder / f"{stem}.webp", lossless=True)
    return folder


@pytest.fixture(scope="session")
def sprites(sources: Path) -> Sprites:
    return Sprites(sources)
