"""Pictures drawn once and kept as bytes: training reads them from a memory map, so that drawing isn't in its loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from probes.testbed.drawing.backdrops import SIZE
from probes.testbed.drawing.scenes import Sample

CHUNK = 2000
DrawSample = Callable[[np.random.Generator], Sample]


def render(folder: Path, name: str, count: int, draw: DrawSample, seed: Sequence[int]) -> None:
    """Draws `count` pictures to FOLDER/NAME-NNN.npy, captions and kinds beside them; whole chunks that are there stay.

    A chunk is a function of (seed, its number) alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for chunk in track(range(-(-count // CHUNK)), description=f"pictures: {name}"):
        path, size = folder / f"{name}-{chunk:03d}.npy", min(CHUNK, count - chunk * CHUNK)
        words = path.with_suffix(".json")
        if words.exists() and path.exists() and len(json.loads(words.read_text())) == size:
            continue
        rng = np.random.default_rng([*seed, chunk])
        samples = [draw(rng) for _ in range(size)]
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.stack([np.asarray(s.image) for s in samples]))
        temporary.replace(path)
        words.write_text(json.dumps([[s.kind, s.caption] for s in samples]))


class RenderedPictures:
    """The chunks of one or several names as one sequence."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        paths = [path for name in names for path in sorted(folder.glob(f"{name}-[0-9][0-9][0-9].npy"))]
        if not paths:
            raise FileNotFoundError(f"No pictures called {' or '.join(names)} are in {folder}; render them first.")
        self._chunks = [np.load(path, mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        rows = [row for path in paths for row in json.loads(path.with_suffix(".json").read_text())]
        self.kinds, self.captions = [row[0] for row in rows], [row[1] for row in rows]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def crop(self, index: int, top: int = 0, left: int = 0, size: int = SIZE) -> np.ndarray:
        """(size, size, 3) bytes of picture `index`."""
        chunk = int(np.searchsorted(self._starts, index, "right")) - 1
        picture = self._chunks[chunk][index - self._starts[chunk]]
        return picture[top : top + size, left : left + size]


def pixels(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1]."""
    array = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
    return array.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
