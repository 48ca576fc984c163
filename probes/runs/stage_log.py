"""What an audit has done so far: stages.json, one entry for each stage with its time, cost, and why it was skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from probes.errors import RunError
from probes.runs.cost import Cost, counted
from probes.runs.folder import write_json

STAGES = (
    "work",
    "scan",
    "before",
    "benign",
    "shielded",
    "twin",
    "localize",
    "pruned",
    "random_pruned",
    "attacked",
    "nonmember_attacked",
    "twin_attacked",
    "surrogates",
    "kept",
    "harden",
    "hardened",
    "hardened_attacked",
    "hardened_nonmember_attacked",
)


class Skip(Exception):
    """A stage can't be done with what this audit was given. Its text is one sentence."""


def _checked(entries: Any) -> list[dict[str, Any]]:
    """What stages.json holds. ValueError if it isn't what Stages writes."""
    texts = ("stage", "status")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in texts)
        and isinstance(entry.get("why"), str | None)
        for entry in entries
    ):
        raise ValueError("it is no list of stages")
    return entries


class Stages:
    """Runs stages once each; what is complete in the folder isn't done again."""

    def __init__(self, folder: Path, *denoisers: torch.nn.Module) -> None:
        self._path = folder / "stages.json"
        self._denoisers = denoisers
        self.cost = Cost()  # of the stage that runs; workers elsewhere add theirs
        self.entries: list[dict[str, Any]] = []
        if self._path.exists():
            try:
                self.entries = _checked(json.loads(self._path.read_text(encoding="utf-8")))
            except (ValueError, RecursionError) as error:
                raise RunError(
                    f"{self._path} is damaged: {error}. Delete it and continue with --resume; what was "
                    "recorded is kept."
                ) from error

    def entry(self, stage: str) -> dict[str, Any] | None:
        return next((entry for entry in self.entries if entry["stage"] == stage), None)

    def detail(self, stage: str) -> dict[str, Any]:
        """What a stage left to say; empty without it."""
        return (self.entry(stage) or {}).get("detail") or {}

    def complete(self, stage: str) -> bool:
        entry = self.entry(stage)
        return entry is not None and entry["status"] == "complete"

    def limits(self) -> list[str]:
        """Why stages were skipped, one sentence each."""
        return list(dict.fromkeys(entry["why"] for entry in self.entries if entry.get("why")))

    def do(self, stage: str, work: Callable[[], Mapping[str, Any] | None]) -> bool:
        """Run ``work`` unless the stage is complete; True if it is complete afterwards, False if it was skipped.

        ``work`` returns details for stages.json. Time and denoiser evaluations of an interrupted attempt are kept.
        """
        if self.complete(stage):
            return True
        before = self.entry(stage) or {"stage": stage, "detail": {}, "seconds": 0.0, "evaluations": 0}
        try:
            with self._measured(stage) as entry:
                entry["detail"] = dict(work() or {})
                entry["status"] = "complete"
        except Skip as skip:
            self._put({**before, "status": "skipped", "why": str(skip)})
        return self.complete(stage)

    @contextmanager
    def _measured(self, stage: str) -> Iterator[dict[str, Any]]:
        before = self.entry(stage) or {}
        entry: dict[str, Any] = {"stage": stage, "status": "partial", "why": None, "detail": {}}
        start = time.perf_counter()
        with counted(*self._denoisers) as self.cost:
            try:
                yield entry
            finally:
                entry["seconds"] = round(before.get("seconds", 0.0) + time.perf_counter() - start, 3)
                entry["evaluations"] = before.get("evaluations", 0) + self.cost.evaluations
                self._put(entry)

    def _put(self, entry: dict[str, Any]) -> None:
        kept = [other for other in self.entries if other["stage"] != entry["stage"]]
        # Stages of a verb of its own (a point of a sweep) come last, in the order they were done.
        place = {stage: number for number, stage in enumerate(STAGES)}
        self.entries = sorted([*kept, entry], key=lambda one: place.get(one["stage"], len(STAGES)))
        write_json(self._path, self.entries)
