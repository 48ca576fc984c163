"""From copy scores to a verdict: thresholds calibrated on pictures that are known not to be copies of each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from probes.metrics.copies import Features, Metric
from probes.metrics.statistics import wilson
from shield.errors import NotCalibratedError, reason_of

if TYPE_CHECKING:
    from probes.types import Judgement

FORMAT = 1
Grade = Literal["copy", "near", "none"]


@dataclass(frozen=True)
class Calibration:
    """A metric's threshold and where it comes from.

    Each of ``n`` non-members was compared with all others; ``nearest`` is the most copy-like of these nearest
    neighbors, ``median`` the usual one. The threshold lies ``margin`` beyond the allowed ones, towards a perfect
    copy. ``false_copies`` of the n still count as copies; the true rate is at most ``false_copy_high`` (95 %,
    Wilson).
    """

    metric: str
    preprocessing: str
    higher_is_copy: bool
    threshold: float
    n: int
    unscored: int
    nearest: float
    median: float
    margin: float
    false_copies: int
    false_copy_high: float
    source: str

    def copied(self, score: float) -> bool | None:
        """Whether a score is beyond the threshold; None for nan."""
        if not np.isfinite(score):
            return None
        return bool(score > self.threshold) if self.higher_is_copy else bool(score < self.threshold)

    def grade(self, score: float) -> Grade | None:
        """copy; near, which is closer than any two non-members are but no copy; none. None for nan."""
        copied = self.copied(score)
        if copied is None:
            return None
        near = score > self.nearest if self.higher_is_copy else score < self.nearest
        return "copy" if copied else "near" if near else "none"


def calibrate(
    metric: Metric,
    nonmembers: Sequence[Image.Image],
    false_copy_rate: float = 0.0,
    *,
    margin: float = 0.5,
    source: str = "",
) -> Calibration:
    """Threshold from the leave-one-out nearest neighbors of pictures that aren't copies of each other.

    At most ``false_copy_rate`` of them may count as copies. The threshold lies beyond the first that may not, by the
    share ``margin`` of what is left to a perfect copy (0: at that neighbor; 1: only a perfect copy). For L2 it has to
    be more than 0.3: a blurred average lies at 1 / sqrt(2) of the distance between two unrelated pictures, and is no
    copy. NotCalibratedError for fewer than three pictures that the metric can score.
    """
    scores = nearest_scores(metric, nonmembers)
    scored = scores[np.isfinite(scores)]
    if scored.size < 3:
        raise NotCalibratedError(
            f"Calibrating {metric.name} needs at least 3 non-member pictures that it can score, "
            f"and got {scored.size} of {len(nonmembers)}."
        )
    ordered = np.sort(scored)[::-1] if metric.higher_is_copy else np.sort(scored)
    # The epsilon keeps 0.29 * 100 = 28.999999999999996 from counting as 28.
    limit = float(ordered[min(int(false_copy_rate * scored.size + 1e-9), scored.size - 1)])
    perfect = 1.0 if metric.higher_is_copy else 0.0
    threshold = limit + margin * (perfect - limit)
    false_copies = int((scored > threshold).sum() if metric.higher_is_copy else (scored < threshold).sum())
    return Calibration(
        metric.name,
        metric.preprocessing,
        metric.higher_is_copy,
        threshold,
        scored.size,
        len(nonmembers) - scored.size,
        float(ordered[0]),
        float(np.median(scored)),
        abs(threshold - limit),
        false_copies,
        wilson(false_copies, scored.size)[1],
        source,
    )


def nearest_scores(metric: Metric, pictures: Sequence[Image.Image]) -> NDArray[np.float64]:
    """(N,) each picture's most copy-like score against all others; nan where none could be scored."""
    features = metric.features(pictures)
    nearest = np.full(len(pictures), np.nan)
    for index in range(len(pictures)):
        others = np.delete(features, index, axis=0)
        scores = metric.compare(np.broadcast_to(features[index], others.shape), others)
        scores = scores[np.isfinite(scores)]
        if scores.size:
            nearest[index] = scores.max() if metric.higher_is_copy else scores.min()
    return nearest


def save_calibrations(path: Path, calibrations: Sequence[Calibration]) -> None:
    """Write thresholds as JSON, replacing the file in one step."""
    from probes.runs.folder import write_json

    metrics = {c.metric: {k: v for k, v in asdict(c).items() if k != "metric"} for c in calibrations}
    write_json(path, {"format": FORMAT, "metrics": metrics})


def load_calibrations(path: Path) -> dict[str, Calibration]:
    """Read thresholds by metric name; NotCalibratedError if the file is missing or can't be read."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] > FORMAT:
            raise NotCalibratedError(f"{path} was written by a newer version (format {stored['format']}).")
        found = {name: Calibration(metric=name, **fields) for name, fields in stored["metrics"].items()}
        for one in found.values():
            if not isinstance(one.higher_is_copy, bool) or not np.isfinite(one.threshold):
                raise ValueError(f"{one.metric} has the threshold {one.threshold!r}, {one.higher_is_copy!r}")
        return found
    except FileNotFoundError:
        raise NotCalibratedError(
            f"There are no copy thresholds at {path}. Run `diffshield calibrate-copies PICTURES --out {path}`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotCalibratedError(f"{path} holds no copy thresholds: {reason_of(error)}") from error


@dataclass(frozen=True)
class CopyJudge:
    """Scores pictures with several metrics; the first one decides, the others are kept to compare with.

    A calibration holds for the preprocessing it was made with: another one is an error, not a guess. ``left_out`` are
    metrics that give no score, with the reason.
    """

    metrics: Sequence[Metric]
    calibrations: Mapping[str, Calibration]
    name: str = field(default="copy_judge")
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("A judge needs at least one metric.")
        for metric in self.metrics:
            found = self.calibrations.get(metric.name)
            if found is None:
                raise NotCalibratedError(
                    f"{metric.name} has no threshold. Run `diffshield calibrate-copies PICTURES --out COPIES.json`."
                )
            if found.preprocessing != metric.preprocessing:
                raise NotCalibratedError(
                    f"{metric.name} was calibrated with {found.preprocessing!r} and is used with "
                    f"{metric.preprocessing!r}. Run `diffshield calibrate-copies PICTURES --out COPIES.json` again."
                )

    @property
    def limits(self) -> tuple[str, ...]:
        """What to say about the judge: which metrics it does without."""
        return tuple(f"Copies are judged without {name}: {why}" for name, why in self.left_out.items())

    def describe(self) -> dict[str, Any]:
        """What decides, and all thresholds, for a run's summary."""
        return {
            "name": self.name,
            "decides": self.metrics[0].name,
            "metrics": {m.name: asdict(self.calibrations[m.name]) for m in self.metrics},
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
        }

    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> dict[str, NDArray]:
        """Metric name -> (B,) scores of picture i against reference i; nan where a metric can't say."""
        return {m.name: m.compare(_features(m, pictures), _features(m, references)) for m in self.metrics}

    def verdicts(self, scores: Mapping[str, float | None]) -> dict[str, bool | None]:
        """Each metric's own verdict on one picture's scores; None where there is no score."""
        return {
            name: None if score is None else self.calibrations[name].copied(score)
            for name, score in scores.items()
            if name in self.calibrations
        }

    def judge(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image | None]) -> list[Judgement]:
        """One judgement for each picture against its own reference; unjudged without a reference."""
        from probes.types import Judgement

        known = [index for index, reference in enumerate(references) if reference is not None]
        nothing: dict[str, float | None] = {name: None for name in (*(m.name for m in self.metrics), *self.left_out)}
        judgements = [Judgement(nothing, None, "there is no reference picture") for _ in pictures]
        scores = self.score([pictures[i] for i in known], [r for r in references if r is not None])
        decides = self.metrics[0].name
        for place, index in enumerate(known):
            found = nothing | {name: _or_none(values[place]) for name, values in scores.items()}
            copied = self.verdicts(found)[decides]
            judgements[index] = Judgement(found, copied, f"{decides} can't score it" if copied is None else None)
        return judgements

    def copies_by_metric(
        self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]
    ) -> dict[str, NDArray[np.float64]]:
        """Metric name -> (B, R): 1 where picture b copies reference r, 0 where not, nan where a metric can't say."""
        return {
            metric.name: self.copies_of(metric, metric.features(pictures), metric.features(references))
            for metric in self.metrics
        }

    def copies_of(self, metric: Metric, pictures: Features, references: Features) -> NDArray[np.float64]:
        """Likewise by one metric, of features that are known."""
        columns = [metric.compare(pictures, np.broadcast_to(one, pictures.shape)) for one in references]
        verdict = self.calibrations[metric.name].copied
        return np.array([[_as_number(verdict(float(s))) for s in row] for row in np.stack(columns, axis=1)])

    def copied(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[list[int]]:
        """For each picture the places of the references that it copies, by the metric that decides."""
        first = CopyJudge(self.metrics[:1], self.calibrations).copies_by_metric(pictures, references)
        return [np.flatnonzero(row == 1).tolist() for row in first[self.metrics[0].name]]


def _as_number(verdict: bool | None) -> float:
    return float("nan") if verdict is None else float(verdict)


def _features(metric: Metric, pictures: Sequence[Image.Image]) -> Features:
    """Features of each distinct picture object once: ten seeds share one reference."""
    distinct = {id(picture): picture for picture in pictures}
    rows = metric.features(list(distinct.values()))
    place = {key: row for row, key in enumerate(distinct)}
    return rows[[place[id(picture)] for picture in pictures]]


def _or_none(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None
