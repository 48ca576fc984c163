"""The last drawings, for whoever asks for the same: the page's first one, an example, a link, one's own history."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.drawing import Drawing
    from ui.protected import Protected
    from ui.request import DrawingRequest

MOST = 24


class Kept:
    """At most `most` drawings by their request, all of one state of what is protected; another state forgets them."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._state: tuple[Any, ...] = ()
        self._drawings: dict[DrawingRequest, Drawing] = {}

    @staticmethod
    def state(protected: Protected) -> tuple[Any, ...]:
        """What is protected: both are replaced, never changed, when somebody edits them."""
        return protected.concepts, protected.works

    def of(self, asked: DrawingRequest, protected: Protected) -> Drawing | None:
        """The drawing of this request, if it was made with what is protected now."""
        with self._lock:
            return self._drawings.get(asked) if self._same(self.state(protected)) else None

    def put(self, asked: DrawingRequest, state: tuple[Any, ...], drawing: Drawing) -> None:
        """Keeps a drawing that was made in this state; the oldest goes when there are too many."""
        with self._lock:
            if not self._same(state):
                self._state, self._drawings = state, {}
            self._drawings[asked] = drawing
            while len(self._drawings) > self.most:
                del self._drawings[next(iter(self._drawings))]

    def forget(self) -> None:
        """Forgets all of them, as when a model was calibrated."""
        with self._lock:
            self._drawings = {}

    def _same(self, state: tuple[Any, ...]) -> bool:
        return len(state) == len(self._state) and all(a is b for a, b in zip(state, self._state, strict=True))
