"""A run as a report reads it, and a finding: what it is about, how grave it is, and the pictures that show it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from probes.report.figures import RateRow, group_of
from probes.report.grades import Grading
from probes.report.summary import StoredSummary
from probes.runs.records import Record

WORKING = ("attack", "harden", "prune")
"""Verbs that need works to judge by."""
ORDER = ("high", "medium", "unknown", "low", "good")
"""Severities, the worst first. "unknown" stands before what is known to be small."""


@dataclass(frozen=True)
class Finding:
    """One thing that a run found.

    Attributes:
        key: What it is about; the headline is the finding of a run's own kind.
        severity: One of ORDER.
        title: The finding itself, in a few words.
        detail: Its numbers and its control.
        row: What an interval bar is drawn of: rate, low, high.
        next: The command to go on with.
        evidence: Records whose pictures show it.
    """

    key: str
    severity: str
    title: str
    detail: str
    row: RateRow | None = None
    next: str | None = None
    evidence: Sequence[Record] = field(default=(), repr=False)


@dataclass(frozen=True)
class ReportedRun:
    """A run as its findings see it."""

    kind: str
    folder: str
    model: str
    figures: StoredSummary
    records: Sequence[Record]
    grading: Grading | None
    prompts: Sequence[str] = ()

    def row(self, stage: str, *groups: str) -> RateRow | None:
        """The first judged row of a stage."""
        rows = {row["group"]: row for row in self.figures["rows"] if row["stage"] == stage and row["rate"] is not None}
        return next((rows[group] for group in groups if group in rows), None)

    def asked(self, stage: str) -> RateRow | None:
        """A stage's row of what was asked about: works in the training data, or the user's prompts."""
        return self.row(stage, "members", "prompts")

    def pictures(self, stage: str, copied: bool | None = True) -> list[Record]:
        """Drawn pictures of a stage with this verdict, the most alike first."""
        drawn = [r for r in self.records if r["stage"] == stage and r["copied"] is copied and r["picture"]]
        members = self.members
        drawn = [r for r in drawn if group_of(r) == "prompts" or (group_of(r) == "members" and r["item"] in members)]
        grading = self.grading
        if grading is None:
            return drawn
        return sorted(drawn, key=lambda r: 1.0 if (score := grading.score(r)) is None else grading.place(score))

    @cached_property
    def members(self) -> set[str]:
        """Works that every stage draws, which rows count; others stand on the ladder of exposures alone."""
        for stages in (("shielded", "twin", "pruned"), ("hardened",), ("before",)):
            if drawn := {r["item"] for r in self.records if r["stage"] in stages}:
                return drawn
        return set()

    def command(self, verb: str, *words: str) -> str:
        """A whole command that goes on from here: with this run's model and, where a verb needs works, its prompts."""
        if verb in WORKING and self.prompts:
            words = (*words, "--prompts", self.prompts[0])
        return shlex.join(["diffshield", *verb.split(), *words, "--model", self.model])

    @property
    def masked(self) -> tuple[str, ...]:
        """The option that names this run's mask; none where it has none of its own."""
        return ("--mask", self.mask) if Path(self.mask).is_file() else ()

    @property
    def mask(self) -> str:
        return f"{self.folder}/mask.safetensors"
