"""Copy scores: milliseconds for each picture, and a look-up among thousands of references."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from benchmarks.timing import Figure, figure, seconds
from probes.metrics import Metric, NormalizedL2, Pdq, ReferenceIndex, TiledL2

PICTURES, REFERENCES = 32, 2000


def measure() -> list[Figure]:
    """Random pictures of 512 px; what they show doesn't change the time."""
    pictures = [random_picture(seed, 512) for seed in range(PICTURES)]
    background = [random_picture(seed, 64) for seed in range(100, 164)]
    found = []
    metrics: tuple[Metric, ...] = (TiledL2(), NormalizedL2.against(background), Pdq())
    for metric in metrics:
        features = metric.features(pictures)
        made = seconds(partial(metric.features, pictures))
        pairs = seconds(partial(metric.compare, features, features[::-1]))
        found.append(figure(f"{metric.name}: features of a 512 px picture", per(made, PICTURES), "ms"))
        found.append(figure(f"{metric.name}: one comparison", per(pairs, PICTURES), "ms"))
    references = {str(seed): random_picture(seed, 64) for seed in range(REFERENCES)}
    index = ReferenceIndex(references, TiledL2())
    taken = seconds(lambda: index.nearest(pictures, k=5))
    return [*found, figure(f"nearest 5 of {REFERENCES} references", per(taken, PICTURES), "ms")]


def per(taken: list[float], count: int) -> list[float]:
    return [1000 * second / count for second in taken]


def random_picture(seed: int, side: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
