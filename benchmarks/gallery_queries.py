"""A gallery of thousands of protected pictures: milliseconds to add one, to look one up, and to look up a preview."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from benchmarks.copy_scores import per, random_picture
from benchmarks.timing import Figure, figure, seconds
from shield.protected.descriptors.pixels import TONES
from shield.protected.gallery import THUMBNAIL, Gallery, pdq, thumbnail

WORKS, PICTURES, BATCH = 10_000, 16, 8


def measure() -> list[Figure]:
    """Random pictures; what they show doesn't change the time. The works' features are drawn directly: making 10,000
    pictures would only measure how they are made.
    """
    asked = [random_picture(seed, 512) for seed in range(PICTURES)]
    previews = [random_picture(seed, 64) for seed in range(100, 100 + BATCH)]
    named = [(f"new-{seed}", picture) for seed, picture in enumerate(asked)]
    filled = filled_gallery(WORKS)
    filled.add(named[:1])
    assert filled.nearest(asked[0]).work == "new-0"  # type: ignore[union-attr]
    found = [
        figure("thumbnail and PDQ of a 512 px picture", per(seconds(partial(features_of, asked)), PICTURES), "ms"),
        figure("add a picture to an empty gallery", per(seconds(lambda: Gallery().add(named)), PICTURES), "ms"),
    ]
    looks = {
        "a finished 512 px picture": lambda: [filled.nearest(picture) for picture in asked],
        f"a preview, {BATCH} at once": lambda: filled.similar(previews),
    }
    for (what, look), count in zip(looks.items(), (PICTURES, BATCH), strict=True):
        found.append(figure(f"nearest of {WORKS} works: {what}", per(seconds(look), count), "ms"))
    return found


def features_of(pictures: list) -> None:
    for picture, feature in product(pictures, (thumbnail, pdq)):
        feature(picture)


def filled_gallery(works: int) -> Gallery:
    """A gallery of random features in the form that add() gives them."""
    rng, gallery = np.random.default_rng(0), Gallery(descriptors=["pixels"])
    rows = rng.standard_normal((works, 3 * THUMBNAIL**2), dtype=np.float32)
    gallery._works = [f"work-{i}" for i in range(works)]
    toned = rng.standard_normal((works, 2 * TONES**2), dtype=np.float32)
    gallery.pixels.restore(
        {
            "thumbnails": rows / np.linalg.norm(rows, axis=1, keepdims=True),
            "hashes": rng.integers(0, 256, (works, 32), dtype=np.uint8),
            "good": np.ones(works, bool),
            "colors": rng.random((works, 768), dtype=np.float32),
            "tones": toned / np.linalg.norm(toned, axis=1, keepdims=True),
        },
        works,
    )
    return gallery
