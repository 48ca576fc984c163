"""Which layers of a denoiser memories are looked for in, by their module paths."""

from __future__ import annotations

import re

import torch

from probes.errors import UnsupportedError
from probes.types import natural_order

SECOND_LINEAR = r"\.ff\.net\.2$"  # of every feed-forward block
VALUES = r"^(down_blocks|mid_block)\..*attn2\.to_v$"  # of cross-attention on the way down


def matching_weights(denoiser: torch.nn.Module, pattern: str) -> dict[str, torch.Tensor]:
    """Weights (d, d_ff) of the linear layers whose path matches, in natural order. UnsupportedError if none does."""
    found = {
        path: module.weight.detach()
        for path, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and re.search(pattern, path)
    }
    if not found:
        raise UnsupportedError(f"{type(denoiser).__name__} has no linear layer whose path matches {pattern!r}.")
    return {path: found[path] for path in sorted(found, key=natural_order)}
