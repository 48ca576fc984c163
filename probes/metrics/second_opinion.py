"""SSCD, the field's own judge of copies, beside the metric that decides, at the line that the literature draws.

A rate tells how many of its pictures SSCD calls copies, and on how many it disagrees with the metric that decides.
Without its weights everything is judged as before.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from probes.metrics.copies import Features, Metric
from probes.metrics.judge import CopyJudge, calibrate
from probes.metrics.sscd import ImmaculateSscd, Sscd
from probes.metrics.statistics import rate_interval

SSCD = (ImmaculateSscd.name, Sscd.name)
SSCD_LINE = 0.5  # Somepalli et al., "Diffusion Art or Digital Forgery?", CVPR 2023, arXiv 2212.03860


class Opinion(TypedDict):
    """What SSCD says of the pictures of a rate: those it scored, how many are copies, and how many it disagrees on."""

    n: int
    count: int
    share: float
    low: float
    high: float
    disagree: int


def sscd_metric(path: Path | None = None) -> Metric | None:
    """SSCD from a TorchScript or an ONNX file, else from the one that is in its place, if any."""
    if path is None:
        return ImmaculateSscd() if ImmaculateSscd.available() else None
    return ImmaculateSscd(path) if path.suffix == ".onnx" else Sscd(path)


def sscd_in(group: Mapping[str, Any]) -> Any:
    """What SSCD, in whichever form it was had, says of a group; None where there was none."""
    return next((group[name] for name in SSCD if name in group), None)


def said_by_sscd(scores: Sequence[Mapping[str, float | None]]) -> list[bool | None]:
    """Whether SSCD calls each of these pictures, by all of its scores, a copy; None where it gave no score."""
    return [None if (score := sscd_in(one)) is None else score > SSCD_LINE for one in scores]


def with_sscd(judge: CopyJudge, sscd: Metric | None, nonmembers: Sequence[Image]) -> CopyJudge:
    """The judge with SSCD, if any, as the last of its metrics: a copy above SSCD_LINE, near above what two of the
    non-members reach.
    """
    if sscd is None:
        return judge
    found = replace(calibrate(sscd, nonmembers, source="the line is the literature's"), threshold=SSCD_LINE)
    return replace(judge, metrics=[*judge.metrics, sscd], calibrations={**judge.calibrations, sscd.name: found})


def opinion(said: Sequence[bool | None], decided: Sequence[bool | None], items: Sequence[Hashable]) -> Opinion | None:
    """SSCD's verdicts beside those that decide, with the interval over items; None where it scored nothing."""
    rate = rate_interval(said, items)
    if not rate.n:
        return None
    pairs = zip(said, decided, strict=True)
    return {
        "n": rate.n,
        "count": sum(one is True for one in said),
        "share": rate.value,
        "low": rate.low,
        "high": rate.high,
        "disagree": sum(one is not None and other is not None and one != other for one, other in pairs),
    }


def rated(copied: Sequence[bool | None], said: Sequence[bool | None], items: Sequence[Hashable]) -> dict[str, Any]:
    """The rate of copies by the metric that decides, with its interval over items, and SSCD's opinion beside it."""
    rate, by_sscd = rate_interval(copied, items), opinion(said, copied, items)
    return {"n": rate.n, "share": rate.value, "low": rate.low, "high": rate.high, "by_sscd": by_sscd}


class AnyOf:
    """Whether pictures copy any of these works, by the metric that decides and by SSCD.

    The works' features are computed once, however many pictures are compared with them.
    """

    def __init__(self, judge: CopyJudge, works: Sequence[Image]) -> None:
        self.judge, self.works = judge, works
        self.decides = judge.metrics[0]
        self.sscd = next((one for one in judge.metrics if one.name in SSCD), None)

    def copied(self, pictures: Sequence[Image | None]) -> list[bool]:
        """By the metric that decides; a picture that isn't there copies nothing."""
        return [bool(one) for one in self._said(self.decides, self._features[self.decides.name], pictures)]

    def copied_by_sscd(self, pictures: Sequence[Image | None]) -> list[bool | None]:
        """Likewise by SSCD; None for a picture that it can't score, and for all where it isn't there."""
        if self.sscd is None:
            return [None] * len(pictures)
        return self._said(self.sscd, self._features[self.sscd.name], pictures)

    @cached_property
    def _features(self) -> dict[str, Features]:
        return {one.name: one.features(self.works) for one in (self.decides, self.sscd) if one is not None}

    def _said(self, metric: Metric, works: Features, pictures: Sequence[Image | None]) -> list[bool | None]:
        shown = [picture for picture in pictures if picture is not None]
        rows = iter(self.judge.copies_of(metric, metric.features(shown), works) if shown else ())
        return [False if picture is None else _any(next(rows)) for picture in pictures]


def _any(row: NDArray[np.float64]) -> bool | None:
    """Of 1 (a copy), 0 and nan (can't say), for each work."""
    return True if (row == 1).any() else None if np.isnan(row).any() else False
