"""Counting denoiser evaluations: the cost that every method here is compared by, on any machine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from shield.hooks.calls import hooked


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


def peak_tensors(call: Callable[[], object]) -> float:
    """Bytes of tensors that the call held at once, beyond those that were there; on a GPU those of that GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns()))
    return max(held, default=0.0)
