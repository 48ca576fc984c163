"""Progress on stderr, one bar for each stage of something long; in a log file, which has no terminal, lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total) while something long runs."""

Track = Callable[[str], ProgressCallback]

EVERY = 30.0
"""Seconds between two lines of one stage in a log file."""


@contextmanager
def bars(show: bool = True) -> Iterator[Track]:
    """Gives a function that opens a bar with a title and returns what to call with (done, total).

    Nothing goes to stdout. Where stderr is no terminal, there are lines instead of bars.
    """
    console = Console(stderr=True)
    if show and not console.is_terminal:
        yield lines(console)
        return
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not show) as rich:

        def track(title: str) -> ProgressCallback:
            task = rich.add_task(title, total=None)

            def advance(done: int, total: int) -> None:
                rich.update(task, completed=done, total=total)

            return advance

        yield track


def lines(console: Console, every: float = EVERY) -> Track:
    """As a bar, in lines: at a stage's first step, at its last, and at most one in ``every`` seconds between."""

    def track(title: str) -> ProgressCallback:
        began = time.monotonic()
        last: float | None = None

        def advance(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if last is not None and done < total and now - last < every:
                return
            last = now
            spent = now - began
            left = f", about {_clock(spent / done * (total - done))} left" if 0 < done < total else ""
            console.out(f"{title}: {done} of {total}, {_clock(spent)}{left}", highlight=False)

        return advance

    return track


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def added_up(progress: ProgressCallback | None, total: int) -> Callable[[int], None]:
    """A function that is told how many more are done, and tells ``progress`` how many are done of ``total``."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return add
