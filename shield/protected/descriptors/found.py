"""What a descriptor says, and above which score it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from PIL import Image

Region = tuple[tuple[float, float], ...]
"""Four corners, clockwise from the protected picture's upper left one, as shares of a picture's width and height. They
lie outside of 0 to 1 where the protected picture was cut."""
WHOLE: Region = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


class CopyLimit(NamedTuple):
    """Scores above `copy` are copies, those above `near` near; `source` says where these come from."""

    copy: float
    near: float
    source: Any = ""


class Match(NamedTuple):
    """The protected picture at `place` in the gallery, by `metric`; the score grows with similarity. `candidates` are
    places that the following descriptors should look at, too.
    """

    place: int
    metric: str
    score: float
    region: Region | None = None
    candidates: tuple[int, ...] = ()


class Descriptor(Protocol):
    """Features of protected pictures, by position, and the one that a picture is most like.

    `limits` by metric. `extra` is what has to be installed for it, if anything.
    """

    name: ClassVar[str]
    extra: ClassVar[str]
    limits: dict[str, CopyLimit]

    @staticmethod
    def available() -> bool: ...

    def __len__(self) -> int: ...

    def describe(self, images: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
        """For each picture what `add` takes."""

    def add(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None: ...

    def keep(self, kept: np.ndarray) -> None:
        """Removes the pictures for which `kept` (N,) is False."""

    def find(self, image: Image.Image, candidates: Sequence[int] = ()) -> Match | None:
        """The best; None where there is nothing to say. `candidates` are places that other descriptors named."""

    def join(self, other: Any) -> None:
        """Adds the pictures of another descriptor of this kind."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs."""

    def restore(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        """What `arrays` gave, of `count` pictures. Raises ValueError or KeyError for anything else."""
