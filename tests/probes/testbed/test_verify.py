"""The testbed's own acceptance: what counts as a copy of any work, and what passes."""

import copy

import numpy as np

from probes.testbed.verify import _any, passed, table


def test_one_copy_decides_and_otherwise_one_that_could_not_be_judged() -> None:
    nan = float("nan")
    assert [_any(np.array(row)) for row in ([0, 1, nan], [0, nan], [0, 0])] == [True, None, False]


def rate(value: float) -> dict:
    return {"n": 10, "copied": value, "share": value, "low": 0.0, "high": 1.0, "mean_score": 0.1}


def works(top: float) -> dict:
    return {key: {"tiled_l2": rate(top if key != "0" else 0), "pdq": rate(top if key != "0" else 0), "disagree": 0}
            for key in ("TM", "0", "9", "99")}  # fmt: skip


FIGURES = {
    "works": {"memorized": works(1.0), "clean": works(0.0)},
    "nonmembers": {t: {"own": {m: rate(0) for m in ("tiled_l2", "pdq")},
                       "any_work": {m: rate(0) for m in ("tiled_l2", "pdq")}} for t in ("memorized", "clean")},
    "scenes": {"real": rate(1), "memorized": rate(0.9), "clean": rate(0.88)},
    "binding": {t: rate(1) for t in ("memorized", "clean")},
}  # fmt: skip


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
