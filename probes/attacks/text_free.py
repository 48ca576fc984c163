"""What probes without a caption share: they draw with the empty prompt, unguided, and ask whether a work comes out.

"When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv 2505.17013, probes erased concepts from a noised
or a masked picture and with more noise than usual. A defense that only cuts a caption off from its picture leaves the
picture in the weights, and no caption is needed to see it. Any model completes most pictures from a little noise, so
a rate says nothing alone: matched non-members, at an equal level, are what it is compared with.

No gradient and nothing but what pipelines hand to their schedulers (probes/model/steering.py), so every family will do.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Image

from probes.model.denoising import picture_sides
from probes.model.generate import encode_pictures, generators, quiet
from probes.types import Subject
from shield.model.autoencoders import latent_channels, packed
from shield.model.families import family_of

APART = 1_000_003  # from a picture's seed to that of the noise its work gets


@dataclass(frozen=True)
class TextFree:
    """A probe at levels in percent. ``steps`` is the highest one; nothing is searched, so there are no evaluations
    beyond the pictures'.

    ``levels`` are the usual ones, ``lowest`` and ``highest`` what may be asked for. ``of_works``: a picture is drawn
    from its work; else pictures are the same for all works, and each is compared with each. ``is_whole``: whole
    pictures are compared; else the parts that ``judged`` cuts out.
    """

    name: ClassVar[str]
    levels: ClassVar[tuple[int, ...]]
    lowest: ClassVar[int] = 1
    highest: ClassVar[int] = 100
    of_works: ClassVar[bool] = True
    is_whole: ClassVar[bool] = True

    steps: int = 100
    batch: int = 1
    rows: int = 64

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations of a search for each goal."""
        return 0

    def judged(self, picture: Image, level: int) -> Image:
        """The part of a picture, and of its work, that is compared."""
        return picture

    def draw(
        self,
        subject: Subject,
        works: Sequence[Image],
        seeds: Sequence[int],
        level: int,
        *,
        steps: int,
        guidance_scale: float,
    ) -> list[Image]:
        """One picture for each work and seed. ``guidance_scale`` counts only where it is an input of the denoiser."""
        pipe = subject.pipe
        height, width = (side * pipe.vae_scale_factor for side in picture_sides(pipe))
        with quiet(pipe), torch.no_grad(), self.steered(subject, works, seeds, level):
            output = pipe(
                prompt=[""] * len(seeds),
                generator=generators(seeds),
                num_inference_steps=steps,
                height=height,
                width=width,
                **_unguided(pipe, guidance_scale),
            )
        return list(output.images)

    def steered(
        self, subject: Subject, works: Sequence[Image], seeds: Sequence[int], level: int
    ) -> AbstractContextManager[None]:
        """What is done to the pipeline's scheduler while it draws."""
        raise NotImplementedError


def _unguided(pipe: Any, guidance_scale: float) -> dict[str, Any]:
    """Guidance off, since both of its predictions would be the empty prompt's; and pictures in the size asked for."""
    family = family_of(pipe)
    is_input = family.guided == "never" or family.guidance != "guidance_scale"
    scale = guidance_scale if is_input else 1.0 - family.guidance_offset
    binned = "use_resolution_binning" in inspect.signature(pipe.__call__).parameters
    return {"guidance_scale": scale, **({"use_resolution_binning": False} if binned else {})}


def latents_and_noise(
    subject: Subject, works: Sequence[Image], seeds: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean latents of works and a noise of each seed's own, in the form that the pipeline's scheduler sees."""
    clean = encode_pictures(subject, works)
    drawn = [torch.randn(clean.shape[1:], generator=draw) for draw in generators([seed + APART for seed in seeds])]
    return in_form(subject, clean), in_form(subject, torch.stack(drawn).to(clean))


def in_form(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, C, H, W) as the pipeline's scheduler sees them."""
    return packed(subject.pipe, latents) if family_of(subject.pipe).packed else latents


def sides_of(subject: Subject) -> tuple[int, int, int]:
    """(C, H, W) of the latents that a picture in the pipeline's own size has."""
    patched = 2 if hasattr(subject.pipe.vae, "bn") else 1
    height, width = (side // patched for side in picture_sides(subject.pipe))
    return latent_channels(subject.pipe), height, width
