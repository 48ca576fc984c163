"""Progress bars on stderr, one for each stage of something long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Progress = Callable[[int, int], None]
"""Called with (done, total) while something long runs."""

Track = Callable[[str], Progress]


@contextmanager
def bars(show: bool = True) -> Iterator[Track]:
    """Gives a function that opens a bar with a title and returns what to call with (done, total).

    Nothing goes to stdout. A closed or redirected stderr shows no bars.
    """
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), disable=not show) as rich:

        def track(title: str) -> Progress:
            task = rich.add_task(title, total=None)

            def advance(done: int, total: int) -> None:
                rich.update(task, completed=done, total=total)

            return advance

        yield track


def added_up(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that is told how many more are done, and tells ``progress`` how many are done of ``total``."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return add
