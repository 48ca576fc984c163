"""Long work in a thread of its own, read as a stream: what it tells on the way, and in the end its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

Told = TypeVar("Told")
Result = TypeVar("Result")


class Stopped(Exception):
    """Ends work that somebody canceled. Never leaves a BackgroundJob."""


class BackgroundJob(Generic[Told, Result]):
    """One piece of work. Iterate over it once; leaving the loop early cancels the work."""

    def __init__(self, work: Callable[[Callable[[Told], None]], Result]) -> None:
        self.result: Result | None = None
        self._work = work
        self._error: Exception | None = None
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self) -> None:
        """Cancels: the work ends the next time it tells something."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Waits for the thread; True when it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def __iter__(self) -> Iterator[Told]:
        """What the work told, without what was outdated before it could be shown. Raises what the work raised."""
        self._thread.start()
        try:
            while (latest := self._latest()) is not _END:
                yield latest
        finally:
            self.stop()
        if self._error is not None:
            raise self._error

    def _latest(self) -> Any:
        latest = self._told.get()
        while latest is not _END:
            try:
                following = self._told.get_nowait()
            except Empty:
                return latest
            if following is _END:
                self._told.put(_END)
                return latest
            latest = following
        return latest

    def _tell(self, told: Told) -> None:
        if self._stop.is_set():
            raise Stopped
        self._told.put(told)

    def _run(self) -> None:
        try:
            self.result = self._work(self._tell)
        except Stopped:
            pass
        except Exception as error:
            self._error = error
        finally:
            self._told.put(_END)


_END: Any = object()
