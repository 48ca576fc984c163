"""What the page's tabs share: models, what is protected, run folders, and who waits for what."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ui.folders import Folders
from ui.jobs import BackgroundJob
from ui.kept import Kept
from ui.models import Pipelines
from ui.protected import Protected
from ui.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from shield.thresholds import Threshold
    from ui.calibrating import Calibrating
    from ui.drawing import Drawing, Frame
    from ui.models import Loaded
    from ui.request import DrawingRequest


@dataclass
class Page:
    """What the tabs share: models, what is protected, run folders, and the picture each visitor is waiting for."""

    models: Pipelines
    protected: Protected
    folders: Folders
    runner: Runner
    thresholds: list[Threshold] | None = None
    jobs: dict[str, BackgroundJob[Any, Any]] = field(default_factory=dict)
    scratch: TemporaryDirectory[str] = field(default_factory=TemporaryDirectory)
    kept: Kept = field(default_factory=Kept)

    def draw(self, asked: DrawingRequest, tell: Callable[[Frame | str], None]) -> Drawing:
        """One picture with what is protected right now; tells frames, or a sentence while the model loads.

        What was drawn already, with the same protected, isn't drawn again.
        """
        if (found := self.kept.of(asked, self.protected)) is not None:
            return found
        if not self.models.settled(asked.model):
            tell(f"Loading {asked.model}; this takes a few seconds …")
        with self.models.used(asked.model) as loaded:
            from ui.drawing import drawn

            if (found := self.kept.of(asked, self.protected)) is not None:  # by somebody else, meanwhile
                return found
            state = self.kept.state(self.protected)
            protected = self.protected
            gallery, concepts = protected.gallery, protected.concepts
            calibrated = self._is_calibrated(loaded, asked)
            drawing = drawn(loaded.pipe, asked, gallery, concepts, loaded.preview, tell, self.thresholds, calibrated)
            self.kept.put(asked, state, drawing)
            return drawing

    def _is_calibrated(self, loaded: Loaded, asked: DrawingRequest) -> bool:
        """Where thresholds were given, they alone count, and the Shield says what they don't hold for."""
        from shield.model.assets import stored_thresholds
        from ui.calibrating import is_calibrated

        if self.thresholds is not None:
            return True
        return is_calibrated(loaded.pipe, loaded.models, asked, stored_thresholds())

    def calibrate(self, asked: DrawingRequest, tell: Callable[[Calibrating], None]) -> None:
        """Calibrates a model for what is asked; nothing is drawn meanwhile. Raises ShieldError."""
        with self.models.used(asked.model) as loaded:
            from ui.calibrating import calibrate

            if not self._is_calibrated(loaded, asked):
                calibrate(loaded.pipe, asked, tell)
            self.kept.forget()

    def begun(self, visitor: str | None, job: BackgroundJob[Any, Any]) -> BackgroundJob[Any, Any]:
        """The job, known as the one that this visitor is waiting for; an older one is canceled."""
        self.stop(visitor)
        self.jobs[visitor or ""] = job
        return job

    def stop(self, visitor: str | None) -> None:
        """Cancels what this visitor is waiting for."""
        job = self.jobs.pop(visitor or "", None)
        if job is not None:
            job.stop()

    def copied(self, name: str, file: str) -> str | None:
        """A run's file where the server may hand it out from: a copy, so that no run folder is served."""
        source = self.folders.path(name) / file
        if not source.is_file() or not source.resolve().is_relative_to(self.folders.root.resolve()):
            return None
        target = Path(self.scratch.name) / f"{source.stat().st_mtime_ns}" / file
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
        return str(target)

    def close(self) -> None:
        """Cancels what is under way and removes what was made to be handed out."""
        for visitor in list(self.jobs):
            self.stop(visitor)
        self.runner.close()
        self.scratch.cleanup()
