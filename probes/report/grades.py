"""Copy, near copy or neither: where a score lies between the work itself, the threshold and unrelated pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from probes.runs.records import Record


@dataclass(frozen=True)
class Grading:
    """The metric that decides, and the scores that its scale is made of.

    Attributes:
        metric: Its name.
        higher: Whether a higher score is more of a copy.
        threshold: Beyond it a picture is a copy.
        nearest: The most alike two unrelated pictures of the calibration; between both a picture is near.
        usual: What unrelated pictures usually score: the far end of the scale.
        twin: Work -> the clean twin's mean score, where a run has it.
    """

    metric: str
    higher: bool
    threshold: float
    nearest: float
    usual: float
    twin: Mapping[str, float]

    @classmethod
    def of(cls, criterion: Mapping[str, Any], records: Sequence[Record]) -> Grading | None:
        """From a run's criterion; None where it has none, or one without a calibration."""
        metric = str(criterion.get("decides"))
        found = criterion.get("metrics", {}).get(metric) or {}
        if any(found.get(name) is None for name in ("threshold", "nearest", "median", "higher_is_copy")):
            return None
        scores: dict[str, list[float]] = {}
        for record in records:
            score = (record.get("scores") or {}).get(metric)
            if record["stage"] == "twin" and score is not None:
                scores.setdefault(record["item"], []).append(score)
        return cls(
            metric,
            found["higher_is_copy"],
            found["threshold"],
            found["nearest"],
            found["median"],
            {item: mean(values) for item, values in scores.items()},
        )

    def score(self, record: Record) -> float | None:
        return (record.get("scores") or {}).get(self.metric)

    def near(self, record: Record) -> bool:
        """Closer to the work than any two unrelated pictures are, and no copy."""
        score = self.score(record)
        if record.get("copied") is not False or score is None:
            return False
        return score > self.nearest if self.higher else score < self.nearest

    def place(self, score: float) -> float:
        """Where a score lies: 0 the work itself, 1 as far as unrelated pictures usually are, or further."""
        perfect = 1.0 if self.higher else 0.0
        return min(1.0, max(0.0, (score - perfect) / ((self.usual - perfect) or 1.0)))

    def bar(self, record: Record) -> dict[str, Any] | None:
        """A picture's distance bar in percent: itself, the threshold, the near limit and the clean twin."""
        score = self.score(record)
        if score is None:
            return None
        twin = self.twin.get(record["item"])
        places = {"at": score, "threshold": self.threshold, "near": self.nearest, "twin": twin}
        return {name: None if value is None else round(100 * self.place(value), 1) for name, value in places.items()}

    def words(self) -> str:
        """What counts as a copy, with the numbers."""
        than, apart = ("more", "alike") if self.higher else ("less", "apart")
        return (
            f"A picture is a copy if its {self.metric} to the work is {than} than {self.threshold:.3g}. It is near if "
            f"it is {than} than {self.nearest:.3g}, the most alike that two unrelated pictures of the calibration "
            f"are; unrelated pictures are usually {self.usual:.3g} {apart}."
        )
