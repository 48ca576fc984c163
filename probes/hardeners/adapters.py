"""Low-rank adapters: train B (out, r) and A (r, in) beside a linear layer's frozen weight W, then save W + B A.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, with alpha = r. A starts
normal, B at zero, so the model starts unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from probes.errors import UnsupportedError

ATTENTION = r"\.attn\d?\.(to_(q|k|v|out\.0)|add_[qkv]_proj|to_add_out)$"  # a transformer's: picture's and text's


class Adapters:
    """Adapters of the linear layers whose path matches. UnsupportedError if none does."""

    def __init__(self, module: torch.nn.Module, rank: int, pattern: str = ATTENTION, seed: int = 0) -> None:
        self._layers = {
            path: layer
            for path, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear) and re.search(pattern, path)
        }
        if not self._layers:
            raise UnsupportedError(f"{type(module).__name__} has no linear layer whose path matches {pattern!r}.")
        draw = torch.Generator().manual_seed(seed)
        self._pairs = {path: _pair(layer, rank, draw) for path, layer in self._layers.items()}
        self.parameters = [matrix for pair in self._pairs.values() for matrix in pair]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside the block the layers answer with their adapters."""
        handles = [layer.register_forward_hook(_adding(*self._pairs[path])) for path, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def merge(self) -> None:
        """Write W + B A into the layers; call it outside of ``attached``."""
        with torch.no_grad():
            for path, layer in self._layers.items():
                down, up = self._pairs[path]
                layer.weight += up @ down


def _pair(layer: torch.nn.Linear, rank: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    down = torch.randn(rank, layer.in_features, generator=draw) / layer.in_features**0.5
    up = torch.zeros(layer.out_features, rank)
    return tuple(matrix.to(layer.weight).requires_grad_(True) for matrix in (down, up))  # type: ignore[return-value]


def _adding(down: torch.Tensor, up: torch.Tensor) -> Any:
    def add(layer: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + args[0] @ down.T @ up.T

    return add
