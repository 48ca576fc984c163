"""One measured figure, and how it is measured: the median of several repeats after one that isn't counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """``low`` and ``high`` are the fastest and slowest repeat's value."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    repeats: int


def seconds(work: Callable[[], Any], repeats: int = 5, warm: bool = True) -> list[float]:
    """Wall seconds of each repeat; a first call loads what is loaded once and isn't among them, unless not ``warm``."""
    if warm:
        work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def figure(name: str, values: list[float], unit: str) -> Figure:
    return Figure(name, statistics.median(values), min(values), max(values), unit, len(values))
