"""The testbed's own acceptance: what counts as a copy of any work, and what passes."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probes.bench.verify import METRICS, SSCD_LINE, Copies, _any, passed, sscd_metric, table, with_sscd
from probes.metrics import CopyJudge, TiledL2, calibrate


def test_one_copy_decides_and_otherwise_one_that_could_not_be_judged() -> None:
    nan = float("nan")
    assert [_any(np.array(row)) for row in ([0, 1, nan], [0, nan], [0, 0])] == [True, None, False]


def rate(value: float) -> dict:
    return {
        "n": 10,
        "copied": value,
        "share": value,
        "low": 0.0,
        "high": 1.0,
        "near": 0.2,
        "mean_score": 0.1,
        "median_score": 0.63,
    }


def works(top: float) -> dict:
    return {
        key: {"tiled_l2": rate(top if key != "0" else 0), "pdq": rate(top if key != "0" else 0), "disagree": 0}
        for key in ("TM", "0", "9", "99")
    }


FIGURES = {
    "works": {"memorized": works(1.0), "clean": works(0.0)},
    "nonmembers": {
        t: {"own": {m: rate(0) for m in ("tiled_l2", "pdq")}, "any_work": {m: rate(0) for m in ("tiled_l2", "pdq")}}
        for t in ("memorized", "clean")
    },
    "scenes": {"real": rate(1), "memorized": rate(0.9), "clean": rate(0.88)},
    "binding": {t: rate(1) for t in ("memorized", "clean")},
}


def test_each_miss_is_named() -> None:
    assert all(passed(FIGURES).values())
    for path, value, missed in (
        (("works", "memorized", "9", "pdq", "copied"), 0.89, "top two rungs copied in 90 % on memorized"),
        (("works", "clean", "9", "pdq", "copied"), 0.1, "no work copied on clean"),
        (("nonmembers", "clean", "any_work", "pdq", "share"), 0.01, "no non-member's caption gives any work"),
        (("nonmembers", "clean", "own", "pdq", "copied"), 0.01, "no non-member's caption gives its own picture"),
        (("scenes", "clean", "share"), 0.79, "scenes found in 80 % on both"),
        (("scenes", "clean", "share"), 0.86, "twins within 3 points"),
    ):
        figures = copy.deepcopy(FIGURES)
        place: dict = figures
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert not passed(figures)[missed]
        assert f"**missed**: {missed}" in table(figures | {"passed": passed(figures)})


def test_near_lies_between_copy_and_what_two_nonmembers_reach() -> None:
    pictures = [
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (32, 32, 3), dtype=np.uint8)) for k in range(5)
    ]
    made = calibrate(TiledL2(side=16), pictures, margin=0.5)
    grades = [made.grade(score) for score in (0.0, (made.threshold + made.nearest) / 2, made.nearest, float("nan"))]
    assert grades == ["copy", "near", "none", None]
    turned = replace(made, higher_is_copy=True, threshold=0.5, nearest=0.3)
    assert [turned.grade(score) for score in (0.51, 0.4, 0.3, 0.6)] == ["copy", "near", "none", "copy"]


def test_shares_near_and_copied_leave_out_what_could_not_be_scored() -> None:
    grades = ["copy", "near", "none", None]
    scores = [0.1, 0.2, 0.4, None]
    told = Copies({m: list(grades) for m in METRICS}, {m: list(scores) for m in METRICS}, list("abcd")).summary()
    assert told["pdq"]["copied"] == told["pdq"]["near"] == pytest.approx(1 / 3)
    assert told["pdq"]["unscored"] == 1 and told["pdq"]["median_score"] == 0.2


def test_sscd_judges_beside_at_the_literature_s_line(tmp_path: Path) -> None:
    """A TorchScript file of SSCD's form, small: the mean colors of 4x4 tiles."""
    torch.jit.script(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())).save(tmp_path / "sscd.pt")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((64, 64), 0) for _ in range(6)]
    tiled = TiledL2(side=16)
    plain = CopyJudge([tiled], {"tiled_l2": calibrate(tiled, pictures)})
    assert with_sscd(plain, None, pictures) is plain
    both = with_sscd(plain, sscd_metric(tmp_path / "sscd.pt"), pictures)
    assert both.metrics[0] is tiled and both.calibrations["sscd"].threshold == SSCD_LINE
    soft = pictures[0].resize((32, 32)).resize((64, 64))
    found = both.judge([soft, pictures[1]], [pictures[0]] * 2)
    assert [both.verdicts(j.scores)["sscd"] for j in found] == [True, False]


def test_the_table_and_the_acceptance_tell_sscd_where_it_is_there() -> None:
    figures = copy.deepcopy(FIGURES)
    for group in figures["works"].values():
        for rung, metrics in group.items():
            metrics["sscd_int8"] = rate(0.0 if rung == "9" else metrics["pdq"]["copied"])
    found = passed(figures)
    assert not found["top two rungs copied in 90 % on memorized"]
    assert "| 0.63 |" in table(figures | {"passed": found})
