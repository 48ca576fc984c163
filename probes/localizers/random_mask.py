"""Random weights, as many in each module as another mask selects: the control every localizer has to beat.

Chavhan et al. (2024, arXiv 2406.18566) evaluate such a mask in their released scripts.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from probes.model.layers import FFN_OUTPUTS, columns, in_whole, layer_at, matching_layers
from probes.runs.progress import ProgressCallback
from probes.types import Located, Subject, UnitMask


@dataclass(frozen=True)
class RandomMask:
    """Uniformly random weights of each module.

    With ``like``: exactly as many in each module as that mask has, whole columns or rows if it selects such, and only
    feed-forward's neurons where it selects nothing else. Without: a share ``density`` of every module that matches
    ``modules``. Prompts are ignored.
    """

    name: ClassVar[str] = "random_mask"

    like: UnitMask | None = None
    density: float = 0.01
    modules: str = FFN_OUTPUTS

    def locate(
        self, subject: Subject, prompts: Sequence[str] = (), *, seed: int = 0, progress: ProgressCallback | None = None
    ) -> Located:
        """Mask drawn from ``seed``; each module's draw depends on its path, not on which other modules there are."""
        like = self.like
        if like is None:
            layers = matching_layers(subject.denoiser, self.modules)
            like = UnitMask(
                {
                    path: in_whole(_first(columns(layer.weight, layer.width).shape, self.density), layer.weight)
                    for path, layer in layers.items()
                }
            )
        like.check(subject.denoiser)
        masks = {path: self._drawn(subject, mask, seed, path) for path, mask in like.masks.items()}
        meta = {"localizer": self.name, "model": subject.name, "model_sha256": subject.sha256(), "seed": str(seed)}
        return Located(replace(like, masks=masks, meta=meta), 0)

    def _drawn(self, subject: Subject, mask: torch.Tensor, seed: int, path: str) -> torch.Tensor:
        width = layer_at(subject.denoiser, path).width
        hidden = columns(mask, width)
        return in_whole(_shuffled(hidden if hidden.sum() == mask.sum() else mask.flatten(1), seed, path), mask)


def _first(shape: torch.Size, density: float) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[: round(density * mask.numel())] = True
    return mask


def _shuffled(mask: torch.Tensor, seed: int, path: str) -> torch.Tensor:
    # torch's CPU generator reads only the low 32 bits of a seed, so both have to be mixed into these.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {path}".encode()))
    columns, rows = mask.all(dim=0), mask.all(dim=1)
    if torch.equal(columns.expand_as(mask), mask):
        return columns[torch.randperm(len(columns), generator=generator)].expand_as(mask).clone()
    if torch.equal(rows[:, None].expand_as(mask), mask):
        return rows[torch.randperm(len(rows), generator=generator)][:, None].expand_as(mask).clone()
    flat = mask.flatten()
    return flat[torch.randperm(len(flat), generator=generator)].view_as(mask)
