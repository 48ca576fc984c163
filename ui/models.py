"""Pipelines by name: loaded when first asked for, used by one picture at a time, and only those the page was given."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shield.errors import BadRequestError, ShieldError

if TYPE_CHECKING:
    from shield.hooks.preview import Preview
    from shield.runtime.settings import RecognizedModels


@dataclass(frozen=True)
class Loaded:
    """A pipeline, what shows its latents (None for families that pack them), and what knows its models by name."""

    pipe: Any
    preview: Preview | None
    models: RecognizedModels


class Pipelines:
    """`names` are what a visitor may choose; no other name, path or hub id is ever loaded."""

    def __init__(self, names: Sequence[str], device: str = "auto") -> None:
        self.names, self.device = tuple(dict.fromkeys(names)), device
        self._ready: dict[str, Loaded] = {}
        self._loading: set[str] = set()
        self._failed: dict[str, str] = {}
        self._lock = threading.RLock()

    def checked(self, name: str) -> str:
        """The name, if the page was given it. Raises BadRequestError."""
        if name not in self.names:
            raise BadRequestError(f"There is no model {str(name)[:80]!r} here; this page has {', '.join(self.names)}.")
        return name

    def state(self, name: str) -> str:
        """One sentence for the page."""
        if name in self._ready:
            return f"{name} is loaded ({_size(self._ready[name].pipe)}, on {self._ready[name].pipe.device})."
        if name in self._loading:
            return f"Loading {name} …"
        return self._failed.get(name, f"{name} loads with its first picture.")

    def settled(self, name: str) -> bool:
        """Whether the model was loaded or failed to; its state won't change by itself."""
        return name in self._ready or (name in self._failed and name not in self._loading)

    @contextmanager
    def used(self, name: str) -> Iterator[Loaded]:
        """The pipeline, for this block alone. Raises BadRequestError, WeightsError."""
        with self._lock:
            yield self._loaded(self.checked(name))

    def warm(self, name: str) -> None:
        """Loads a model in the background; what goes wrong shows in its state, and again when it is used."""
        if self.checked(name) not in self._loading and not self.settled(name):
            self._loading.add(name)
            threading.Thread(target=self._warmed, args=(name,), daemon=True).start()

    def _warmed(self, name: str) -> None:
        with suppress(ShieldError), self.used(name):
            pass

    def _loaded(self, name: str) -> Loaded:
        if name not in self._ready:
            self._failed.pop(name, None)
            self._loading.add(name)
            try:
                self._ready[name] = _load(name, self.device)
            except Exception as error:
                ours = isinstance(error, ShieldError)
                self._failed[name] = str(error) if ours else f"{name} couldn't be loaded: {type(error).__name__}."
                raise
            finally:
                self._loading.discard(name)
        return self._ready[name]


def _load(name: str, device: str) -> Loaded:
    from probes.model.loading import load
    from shield.hooks.preview import preview_of
    from shield.model.families import family_of
    from shield.runtime.settings import RecognizedModels

    pipe = load(name, device=device)
    return Loaded(pipe, None if family_of(pipe).packed else preview_of(pipe), RecognizedModels())


def _size(pipe: Any) -> str:
    from shield.hooks.intercept import denoiser_of

    return f"{sum(p.numel() for p in denoiser_of(pipe).parameters()) / 1e6:.0f} million weights"
