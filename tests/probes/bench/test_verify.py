"""The testbed's own acceptance: what counts as a copy of any work, and what passes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from probes.bench.verify import METRICS, Copies, _any, passed, table, weights_of
from probes.metrics import TiledL2, calibrate


def test_one_copy_decides_and_otherwise_one_that_could_not_be_judged() -> None:
    nan = float("nan")
    assert [_any(np.array(row)) for row in ([0, 1, nan], [0, nan], [0, 0])] == [True, None, False]


def rate(value: float) -> dict:
    return {
        "n": 10,
        "copied": value,
        "share": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "near": 0.2,
        "mean_score": 0.1,
        "median_score": 0.63,
    }


def works(top: float) -> dict:
    rates = {"TM": top, "0": 0.0, "5": top / 2, "9": top, "99": top}
    return {key: {"tiled_l2": rate(r), "pdq": rate(r), "disagree": 0} for key, r in rates.items()}


FIGURES = {
    "works": {"memorized": works(1.0), "clean": works(0.0)},
    "nonmembers": {
        t: {"own": {m: rate(0) for m in ("tiled_l2", "pdq")}, "any_work": {m: rate(0) for m in ("tiled_l2", "pdq")}}
        for t in ("memorized", "clean")
    },
    "scenes": {"real": rate(1), "memorized": rate(0.98), "clean": rate(0.96)},
    "binding": {t: rate(1) for t in ("memorized", "clean")},
    "round_trips": {"scenes": {"n": 10, "psnr": 32.1}, "works": {"n": 10, "psnr": 30.1}},
}


def with_sscd_figures(figures: dict) -> dict:
    """The figures with SSCD beside, as good as the others."""
    made = copy.deepcopy(figures)
    for group in made["works"].values():
        for metrics in group.values():
            metrics["sscd_int8"] = copy.deepcopy(metrics["pdq"])
    for group in made["nonmembers"].values():
        group["own"]["sscd_int8"] = rate(0) | {"median_score": 0.3}
        group["any_work"]["sscd_int8"] = rate(0)
    made["round_trips"]["works"]["sscd_int8"] = 0.72
    return made


def test_what_needs_sscd_is_not_measured_without_it() -> None:
    found = passed(FIGURES)
    assert [name for name, ok in found.items() if ok is None] == [name for name in found if "SSCD" in name] != []
    assert "- not measured (needs SSCD): works' round trips SSCD .7 or more" in table(FIGURES | {"passed": found})
    assert all(passed(with_sscd_figures(FIGURES)).values())


def test_each_miss_is_named() -> None:
    whole = with_sscd_figures(FIGURES)
    memorized, own = ("works", "memorized"), ("nonmembers", "memorized", "own")
    for path, value, missed in (
        (("works", "memorized", "9", "pdq", "copied"), 0.89, "top two rungs copied in 90 % on memorized"),
        (("works", "clean", "9", "pdq", "copied"), 0.1, "no work copied on clean"),
        ((*memorized, "9", "sscd_int8", "copied"), 0.89, "top two rungs copied in 90 % on memorized"),
        ((*memorized, "99", "tiled_l2", "low"), 0.85, "top two rungs' intervals at most 20 points wide"),
        ((*memorized, "99", "sscd_int8", "median_score"), 0.59, "top two rungs' median SSCD .6 or more"),
        ((*memorized, "5", "tiled_l2", "copied"), 0.81, "the rung below them copied in 20 to 80 %"),
        ((*memorized, "5", "tiled_l2", "copied"), 0.19, "the rung below them copied in 20 to 80 %"),
        ((*memorized, "TM", "pdq", "copied"), 0.79, "template works copied in 80 %"),
        ((*own, "sscd_int8", "median_score"), 0.36, "non-members' median SSCD .35 or less"),
        (("works", "clean", "TM", "pdq", "copied"), 0.1, "no work copied on clean"),
        (("round_trips", "scenes", "psnr"), 31.9, "scenes' round trips 32 dB or more"),
        (("round_trips", "works", "psnr"), 29.9, "works' round trips 30 dB or more"),
        (("round_trips", "works", "sscd_int8"), 0.69, "works' round trips SSCD .7 or more"),
        (
            ("nonmembers", "clean", "any_work", "pdq", "share"),
            0.011,
            "a non-member's caption gives a work in 1 % at most",
        ),
        (("nonmembers", "clean", "own", "pdq", "copied"), 0.01, "no non-member's caption gives its own picture"),
        (("scenes", "clean", "share"), 0.94, "scenes found in 95 % on both"),
        (("scenes", "memorized", "share"), 0.995, "twins within 3 points"),
    ):
        figures = copy.deepcopy(whole)
        place: dict = figures
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert passed(figures)[missed] is False
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


def test_the_table_tells_sscd_where_it_is_there() -> None:
    figures = with_sscd_figures(FIGURES)
    told = table(figures | {"passed": passed(figures)})
    assert "| 0.63 |" in told and "30.1 dB, SSCD 0.72" in told


@pytest.mark.usefixtures("shipped")
def test_each_twin_has_weights_of_its_own() -> None:
    assert weights_of("memorized") != weights_of("clean") and len(weights_of("clean")) == 64
