"""Selected weights shrink by a factor: between leaving them and deleting them, for trade-off curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class ScaleWeights:
    """Multiplies the selected weights by ``factor``: 1 leaves them, 0 is ``zero_weights``, below 0 turns them round."""

    name: ClassVar[str] = "scale_weights"

    factor: float = 0.5

    def edited(self, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """W where M is False, factor * W where it is True; same shape and dtype."""
        return torch.where(mask, weight * self.factor, weight)
