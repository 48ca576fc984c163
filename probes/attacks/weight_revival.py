"""Fill in the weights that a pruner set to zero, from the zeros alone: no data, no training, no original weights.

"Roots Beneath the Cut", CVPR 2026, arXiv 2603.06640: zeros tell where the pruned weights were, and the weights that
stay tell their signs. In each layer the zeros are completed by SoftImpute (Mazumder, Hastie, Tibshirani, JMLR 2010:
fill, shrink the singular values, keep what is observed, repeat); the signs of the largest completed entries are kept;
and each gets the largest magnitude of its row, since a localizer selects weights that are large where a memory passes.

It shows what saving a zeroed model gives away. Its controls are a random mask of the same size, matched non-members
and the clean twin: what these bring back too is no memory. ``resample_weights`` is the pruner that leaves no zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from probes.model.layers import FFN_OUTPUTS, matching_weights
from probes.pruners.pruned import replaced
from probes.types import Subject


@dataclass(frozen=True)
class WeightRevival:
    """Completes the zeros of every linear layer whose path matches ``modules``.

    ``keep`` is the share of completed entries, largest first, that get a value; the rest stay zero. SoftImpute ends
    after ``iterations`` or when an iterate changes by less than ``tolerance`` of its norm.
    """

    name: ClassVar[str] = "weight_revival"

    keep: float = 0.6
    iterations: int = 500
    tolerance: float = 1e-5
    modules: str = FFN_OUTPUTS

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share of the completed weights, above 0 and at most 1, not {self.keep}.")

    def revive(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight (d, d_ff) with its zeros filled in; same dtype and device. Without zeros, its values unchanged."""
        hidden = weight == 0
        if not hidden.any():
            return weight.clone()
        completed = self.complete(weight.float(), hidden)
        largest = completed[hidden].abs().topk(max(1, round(self.keep * int(hidden.sum())))).values[-1]
        signs = torch.where(hidden & (completed.abs() >= largest), completed.sign(), 0.0)
        peak = weight.float().abs().amax(dim=1, keepdim=True) * (1 + 1e-6)
        return torch.where(hidden, (signs * peak).to(weight.dtype), weight)

    def complete(self, weight: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """SoftImpute: the matrix (d, d_ff) with its ``hidden`` entries filled in, float32.

        They start from their column's mean; the smallest singular value is what all are shrunk by.
        """
        seen = (~hidden).float()
        means = (weight * seen).sum(dim=0) / seen.sum(dim=0).clamp_min(1)
        current = torch.where(hidden, means.expand_as(weight), weight)
        for _ in range(self.iterations):
            left, values, right = torch.linalg.svd(current, full_matrices=False)
            smooth = (left * (values - values[-1])) @ right
            following = torch.where(hidden, smooth, weight)
            change = (following - current).norm() / current.norm().clamp_min(torch.finfo(torch.float32).tiny)
            current = following
            if change < self.tolerance:
                break
        return current


@contextmanager
def revived(subject: Subject | torch.nn.Module, revival: WeightRevival | None = None) -> Iterator[dict[str, int]]:
    """The denoiser with its zeroed weights filled in inside the block; restored bit for bit afterwards.

    Gives the number of zeros found by module path; empty where no layer has any, and then nothing was changed.
    """
    denoiser = subject.denoiser if isinstance(subject, Subject) else subject
    revival = revival or WeightRevival()
    weights = matching_weights(denoiser, revival.modules)
    zeros = {path: int((weight == 0).sum()) for path, weight in weights.items()}
    zeros = {path: count for path, count in zeros.items() if count}
    weights = {path: revival.revive(weights[path].flatten(1)).view_as(weights[path]) for path in zeros}
    with replaced(denoiser, weights):
        yield zeros
