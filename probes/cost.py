"""Counting denoiser evaluations: the cost that every method here is compared by, on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from shield.calls import hooked


@dataclass
class Cost:
    """Denoiser evaluations so far; one call on a batch of B rows counts B (guidance doubles the rows)."""

    evaluations: int = 0


@contextmanager
def counted(*denoisers: torch.nn.Module) -> Iterator[Cost]:
    """Count the evaluations of these denoisers inside the block."""
    cost = Cost()

    def count(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        cost.evaluations += len(rows) if rows is not None else 1

    with ExitStack() as stack:
        for denoiser in denoisers:
            stack.enter_context(hooked(denoiser, count))
        yield cost
