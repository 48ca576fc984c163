"""Draw from noise alone with the empty prompt, with more of it at every step than the solver adds.

See probes/attacks/text_free.py. The paper takes DDIM's noise at eta 1 times up to 1.85, so that a sample strays to
where an edit of the weights didn't reach. Pictures don't depend on a work, so each is compared with every work, and one
noise is drawn once. A model has to draw a work without being asked for it: take many seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from PIL.Image import Image

from probes.attacks.text_free import APART, TextFree
from probes.model.generate import generators
from probes.model.steering import stirred
from probes.types import Subject


@dataclass(frozen=True)
class Noise(TextFree):
    """Level: percent of DDPM's noise that each step adds; 0 is the solver as it is."""

    name: ClassVar[str] = "noise"
    levels: ClassVar[tuple[int, ...]] = (0, 100, 185)
    lowest: ClassVar[int] = 0
    highest: ClassVar[int] = 1000
    of_works: ClassVar[bool] = False

    def steered(
        self, subject: Subject, works: Sequence[Image], seeds: Sequence[int], level: int
    ) -> AbstractContextManager[None]:
        return stirred(subject.pipe.scheduler, generators([seed + APART for seed in seeds]), level / 100)
