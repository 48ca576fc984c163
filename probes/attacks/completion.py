"""Noise a work as far as a step of the schedule, and let the model go on from there with the empty prompt.

See probes/attacks/text_free.py. The paper's ladder over the step is one over the share of the schedule that the model
draws itself: at 20 % the work shines through for any model, at 100 % nothing of it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from PIL.Image import Image

from probes.attacks.text_free import TextFree, latents_and_noise
from probes.model.steering import begun_at
from probes.types import Subject


@dataclass(frozen=True)
class Completion(TextFree):
    """Level: percent of the schedule's steps that are drawn, from the work noised to where they begin."""

    name: ClassVar[str] = "completion"
    levels: ClassVar[tuple[int, ...]] = (20, 40, 60, 80)

    def steered(
        self, subject: Subject, works: Sequence[Image], seeds: Sequence[int], level: int
    ) -> AbstractContextManager[None]:
        clean, noise = latents_and_noise(subject, works, seeds)
        return begun_at(subject.pipe.scheduler, clean, noise, level / 100)
