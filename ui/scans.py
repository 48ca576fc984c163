"""What the Scan tab shows of a scan's run folder: its prompts by score, as they come, and the flagged ones' words."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.errors import RunError
from probes.runs.records import Record
from ui.folders import Folders

COLUMNS = ("prompt", "score", "flagged", "words that pull most")
SHOWN = 200
LONGEST = 160
DARKEST = 0.5  # of the color of 1, on which the words' own would be hard to read
SAID = {True: "flagged", False: "not flagged", None: "not judged"}


@dataclass(frozen=True)
class Scan:
    """One scan so far: its status, its records, and what its summary says once there is one."""

    status: str
    detector: str
    records: Sequence[Record]
    summary: dict[str, Any]
    ahead: tuple[str, ...]

    @classmethod
    def read(cls, folders: Folders, name: str) -> Scan:
        """Raises RunError."""
        run = folders.opened(name)
        if run.about.get("kind") != "scan":
            raise RunError(f"{name} is no scan.")
        detector = next(iter(run.config.get("detectors") or ()), "")
        return cls(
            run.status, detector, folders.records(name), _summary(run.folder), tuple(run.about.get("known_ahead") or ())
        )

    def rows(self) -> list[list[str]]:
        """The prompts with the highest scores, SHOWN at most, by COLUMNS."""
        words = self._words()
        return [self._row(record, words) for record in self._highest()]

    def marked(self, row: Sequence[Any]) -> list[tuple[str, float | None]]:
        """The prompt of one of the rows in pieces, each word that was weighed with its share."""
        words, wanted = self._words(), [str(cell) for cell in row[:2]]
        record = next((one for one in self._highest() if self._row(one, words)[:2] == wanted), None)
        return [] if record is None else marked(str(record["prompt"]), words.get(record["item"], []))

    def _highest(self) -> list[Record]:
        known = [(score, -place) for place in range(len(self.records)) if (score := self._score(place)) is not None]
        return [self.records[-place] for _, place in heapq.nlargest(SHOWN, known)]

    def _score(self, place: int) -> float | None:
        return self.records[place]["scores"].get(self.detector)

    def _row(self, record: Record, words: Mapping[str, Sequence[Sequence[Any]]]) -> list[str]:
        most = sorted(words.get(record["item"], ()), key=lambda word: -word[1])[:4]
        return [
            _short(str(record["prompt"])),
            f"{record['scores'][self.detector]:.3f}",
            SAID[record.get("flagged")],
            ", ".join(f"{word} {share:.0%}" for word, share in most),
        ]

    def _words(self) -> dict[str, list[list[Any]]]:
        return {row["item"]: row.get("words") or [] for row in self.summary.get("flagged_prompts") or ()}

    def sentence(self) -> str:
        """How many were scored and flagged, and by what."""
        judged = [record for record in self.records if record.get("flagged") is not None]
        count, flagged = len(self.records), sum(record["flagged"] is True for record in judged)
        if not judged:
            return f"{count} scores; none could be judged. {' '.join(self.ahead)}"
        limit = self.summary.get("threshold")
        by = "" if limit is None else f", by a {self.detector.replace('_', ' ')} above {limit:.3f}"
        return f"{count} scores, {flagged} flagged{by}. {self._rate()}"

    def _rate(self) -> str:
        about = self.summary.get("calibration") or {}
        if not about:
            return ""
        return f"The threshold flags {about['fpr']:.1%} of benign prompts; it was made from {about['negatives']}."


def marked(prompt: str, words: Sequence[Sequence[Any]]) -> list[tuple[str, float | None]]:
    """A prompt in pieces: each word in their order by its share of the strongest one's, which is DARKEST."""
    pieces, place, strongest = list[tuple[str, float | None]](), 0, max((word[1] for word in words), default=0.0) or 1.0
    for text, share in words:
        found = re.compile(re.escape(text), re.IGNORECASE).search(prompt, place)
        if found is None:
            continue
        if found.start() > place:
            pieces.append((prompt[place : found.start()], None))
        pieces.append((found[0], round(DARKEST * share / strongest, 3)))
        place = found.end()
    return [*pieces, (prompt[place:], None)] if place < len(prompt) else pieces


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= LONGEST else prompt[: LONGEST - 1] + "…"


def _summary(folder: Any) -> dict[str, Any]:
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
