"""Run a function over many items in batches; when a batch doesn't fit in memory, halve it and go on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from probes.errors import MemoryFullError
from probes.runs.progress import ProgressCallback
from shield.model.memory import free_memory, out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    batch_size: int,
    progress: ProgressCallback | None = None,
) -> list[Result]:
    """Results of ``work`` over slices of at most ``batch_size`` items, in the items' order.

    ``work`` returns one result for each item. Out of memory: warns, halves the batch for the rest, tries again;
    MemoryFullError if a single item doesn't fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    results: list[Result] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + batch_size]
        try:
            found = work(batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MemoryFullError(
                    "Not even one item at a time fits in memory: free some, use another --device, or a smaller model."
                ) from error
            batch_size = len(batch) // 2
            warnings.warn(f"A batch of {len(batch)} doesn't fit in memory; going on with {batch_size}.", stacklevel=2)
            free_memory()
            continue
        if len(found) != len(batch):
            raise ValueError(f"A batch of {len(batch)} gave {len(found)} results.")
        results.extend(found)
        if progress is not None:
            progress(len(results), len(items))
    return results


def best_batch(work: Callable[[int], object], largest: int = 1024, gain: float = 1.05) -> int:
    """The batch, a power of two, from which on doubling makes ``work(batch)`` less than ``gain`` times faster per item.

    Never one that doesn't fit in memory; MemoryFullError if a single item doesn't. Each size runs twice and the second
    time counts, since the first one also loads kernels.
    """
    best, rate, size = 0, 0.0, 1
    while size <= largest:
        try:
            work(size)
            start = time.perf_counter()
            work(size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            free_memory()
            break
        now = size / (time.perf_counter() - start)
        if best and now < gain * rate:
            break
        best, rate, size = size, now, 2 * size
    if not best:
        raise MemoryFullError(
            "Not even one item at a time fits in memory: free some, use another --device, or a smaller model."
        )
    return best
