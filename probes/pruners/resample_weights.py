"""Selected weights become draws from their row's other weights, so that a saved model doesn't show its mask.

Zeros mark what was pruned, and a model can be filled in from them alone ("Roots Beneath the Cut", CVPR 2026,
arXiv 2603.06640; probes/attacks/weight_revival.py). Values that the row has anyway mark nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class ResampleWeights:
    """Draws each selected weight, with replacement, from the weights of its row that stay.

    A row without any takes them from the whole layer; a layer without any becomes zero. ``seed`` decides the draws.
    """

    name: ClassVar[str] = "resample_weights"

    seed: int = 0

    def edited(self, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """W where M is False, a surviving value of the same row where it is True; same shape and dtype."""
        rows, selected = weight.flatten(1), mask.flatten(1)
        kept = weight[~mask]
        if not len(kept):
            return torch.zeros_like(weight)
        surviving = (~selected).sum(dim=1, keepdim=True)
        # Surviving columns first, in each row: a random rank among them is a random surviving weight.
        order = selected.to(torch.uint8).argsort(dim=1, stable=True)
        rank = (self._uniform(rows.shape).to(weight.device) * surviving).long()
        drawn = rows.gather(1, order.gather(1, rank.clamp(max=rows.shape[1] - 1)))
        anywhere = kept[(self._uniform(rows.shape).to(weight.device) * len(kept)).long()]
        return torch.where(selected, torch.where(surviving > 0, drawn, anywhere), rows).view_as(weight)

    def _uniform(self, shape: torch.Size) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
