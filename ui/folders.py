"""The run folders below one root, by name; nothing outside of it is ever opened, whatever a name or a link says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from probes.errors import RunError
from probes.runs.folder import Run
from probes.runs.records import Record
from shield.errors import reason_of

DEEPEST = 3
MOST = 500
# A killed run says "running" forever; one that has been quiet for so many seconds isn't looked at again by itself.
QUIET = 600.0
WRITTEN = ("run.json", "records.jsonl", "stages.json", "report.html")


@dataclass(frozen=True)
class Listed:
    """One run folder. `name` is its path below the root; `live` whether something is writing to it."""

    name: str
    kind: str
    model: str
    status: str
    created: str
    live: bool = False


class Folders:
    """The run folders below `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def listed(self) -> list[Listed]:
        """At most MOST of them, the newest first. Damaged ones are left out."""
        found = []
        for name in self._names():
            try:
                run = self.opened(name)
            except RunError:
                continue
            about = run.about
            kind, status, created = (str(about.get(key) or "unknown") for key in ("kind", "status", "created"))
            model = str((about.get("model") or {}).get("name") or "?")
            live = status == "running" and time.time() - max(self.changed(name)) < QUIET
            found.append(Listed(name, kind, model, status, created, live))
        return sorted(found, key=lambda run: run.created, reverse=True)[:MOST]

    def path(self, name: str) -> Path:
        """The folder of a run. Raises RunError for a name that leads out of the root."""
        folder = self.root / str(name or "")
        try:
            inside = folder.resolve().is_relative_to(self.root.resolve()) and folder.resolve() != self.root.resolve()
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside:
            raise RunError(f"There is no run {str(name)[:80]!r} in {self.root}.")
        return folder

    def opened(self, name: str) -> Run:
        """Raises RunError for what is no run folder below the root."""
        return Run.open(self.path(name))

    def changed(self, name: str) -> list[float]:
        """When each file that a run is written to was changed last; 0 where there is none. RunError as for `path`."""
        files = [self.path(name) / file for file in WRITTEN]
        return [file.stat().st_mtime if file.exists() else 0.0 for file in files]

    def records(self, name: str) -> tuple[Record, ...]:
        """All records so far; read again only when the file has changed. Raises RunError."""
        folder = self.opened(name).folder
        try:
            state = (folder / "records.jsonl").stat()
        except FileNotFoundError:
            return ()
        return _records(folder, state.st_mtime_ns, state.st_size)

    def _names(self) -> Iterator[str]:
        for folder, below, files in os.walk(self.root):  # doesn't follow links
            place = Path(folder).relative_to(self.root)
            if "run.json" in files and place.parts:
                yield place.as_posix()
                below.clear()
            elif len(place.parts) >= DEEPEST:
                below.clear()
            else:
                below[:] = sorted(name for name in below if not name.startswith("."))


@lru_cache(maxsize=4)
def _records(folder: Path, changed: int, size: int) -> tuple[Record, ...]:
    return tuple(Run.open(folder).records())


def stages_of(run: Run) -> list[dict[str, Any]]:
    """What stages.json says, or nothing. Raises RunError for a damaged one."""
    path = run.folder / "stages.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {reason_of(error)}") from error
