"""Mask a part of a work, and let the model fill it in with the empty prompt.

See probes/attacks/text_free.py. What isn't masked is put back after each step, noised as far as that step has come, so
a model for text alone will do. Only the masked part is compared with the work: the rest is the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL.Image import Image

from probes.attacks.text_free import TextFree, in_form, latents_and_noise, sides_of
from probes.model.steering import held
from probes.types import Subject


@dataclass(frozen=True)
class Inpainting(TextFree):
    """Level: percent of the picture's width, from the right, that is masked."""

    name: ClassVar[str] = "inpainting"
    levels: ClassVar[tuple[int, ...]] = (25, 50, 75)
    is_whole: ClassVar[bool] = False

    def judged(self, picture: Image, level: int) -> Image:
        return picture.crop((round(picture.width * (1 - level / 100)), 0, picture.width, picture.height))

    def steered(
        self, subject: Subject, works: Sequence[Image], seeds: Sequence[int], level: int
    ) -> AbstractContextManager[None]:
        clean, noise = latents_and_noise(subject, works, seeds)
        masked = torch.zeros(1, *sides_of(subject))
        masked[..., round(masked.shape[-1] * (1 - level / 100)) :] = 1
        return held(subject.pipe.scheduler, clean, noise, in_form(subject, masked) > 0)
