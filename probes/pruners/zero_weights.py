"""Selected weights become zero: what Chavhan et al. (2024, arXiv 2406.18566) and NeMo (2024, arXiv 2406.02366) do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class ZeroWeights:
    """Sets the selected weights to zero."""

    name: ClassVar[str] = "zero_weights"

    def edited(self, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """W * (1 - M), same shape and dtype."""
        return weight.masked_fill(mask, 0)
