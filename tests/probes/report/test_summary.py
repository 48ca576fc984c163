"""Figures from records, by hand."""

from math import sqrt

import pytest

from probes.report.figures import (
    attack_curve,
    detector_figures,
    difference,
    gaps,
    group_of,
    ladder,
    rate_row,
    stage_rows,
    utility,
)


def record(stage="before", item="work-1", copied=True, kind="work", rung=1024, seed=0, **more):
    return {
        "stage": stage,
        "item": item,
        "kind": kind,
        "rung": rung,
        "exposures": rung,
        "seed": seed,
        "copied": copied,
        "scores": {"tiled_l2": 0.1},
        "attack_steps": None,
        **more,
    }


def test_a_work_that_was_never_shown_is_a_nonmember():
    assert group_of(record(rung=0)) == "nonmembers"
    assert group_of(record(rung=6)) == group_of(record(rung=None)) == "members"
    assert group_of(record(kind="scene")) == "scenes" and group_of(record(kind="prompt")) == "prompts"


def test_unjudged_pictures_count_neither_way():
    row = rate_row([record(copied=True), record(item="b", copied=False), record(item="c", copied=None)], "tiled_l2")
    assert (row["rate"], row["n"], row["works"], row["unscored"], row["copied"]) == (0.5, 2, 2, 1, 1)
    nothing = rate_row([record(copied=None)], "tiled_l2")
    assert nothing["rate"] is nothing["low"] is nothing["high"] is None and nothing["unscored"] == 1


def test_stage_rows_compare_the_same_works():
    records = [
        record(item="a"),
        record(item="low", rung=6, copied=False),
        record("pruned", "a", False),
        record(item="n", kind="nonmember", rung=0, copied=False),
        record(item="s", kind="scene", copied=None),
    ]
    rows = {(row["stage"], row["group"]): row for row in stage_rows(records, {"a"}, "tiled_l2")}
    assert set(rows) == {("before", "members"), ("before", "nonmembers"), ("pruned", "members")}
    assert rows["before", "members"]["n"] == 1 and rows["before", "members"]["rate"] == 1.0
    assert rows["pruned", "members"]["rate"] == 0.0


def test_gap_is_members_minus_control_at_equal_steps():
    records = [
        record("attacked", item, copied, attack_steps=steps)
        for steps, copied in ((0, False), (50, True))
        for item in "abcd"
    ]
    records += [record("twin_attacked", item, item == "a", attack_steps=50) for item in "abcd"]
    curve = attack_curve(records, "tiled_l2")
    assert [(row["stage"], row["attack_steps"], row["rate"]) for row in curve] == [
        ("attacked", 0, 0.0),
        ("attacked", 50, 1.0),
        ("twin_attacked", 50, 0.25),
    ]
    (gap,) = gaps(curve)
    assert (gap["attack_steps"], gap["control"], gap["gap"]) == (50, "twin_attacked", 0.75)
    assert gap["n"] == gap["n_control"] == 4 and gap["stage"] == "attacked"
    records += [record("hardened_attacked", item, item == "a", attack_steps=50) for item in "abcd"]
    again = [gap for gap in gaps(attack_curve(records, "tiled_l2")) if gap["stage"] == "hardened_attacked"]
    assert [(gap["control"], gap["gap"]) for gap in again] == [("twin_attacked", 0.0)]


def test_the_interval_of_a_gap_by_hand():
    one, other = {"rate": 1.0, "low": 0.6, "high": 1.0}, {"rate": 0.0, "low": 0.0, "high": 0.3}
    found = difference(one, other)
    assert found["gap"] == 1.0 and found["high"] == 1.0
    assert found["low"] == pytest.approx(1 - sqrt(0.4**2 + 0.3**2))
    assert difference(one, {"rate": None, "low": None, "high": None})["gap"] is None


def test_certainty_needs_more_than_agreement():
    """All of four works against none of four is no proof of a gap of exactly 1."""
    curve = attack_curve(
        [
            record(stage, item, stage == "attacked", attack_steps=9)
            for item in "abcd"
            for stage in ("attacked", "nonmember_attacked")
        ],
        None,
    )
    (gap,) = gaps(curve)
    assert gap["gap"] == 1.0 and 0.2 < gap["low"] < 0.6


def test_ladder_by_rung():
    records = [record(item="a", rung=6, copied=False), record(item="b", rung=1024), record(item="c", rung=1024)]
    rows = ladder(records, None)
    assert [(row["rung"], row["rate"], row["n"], row["exposures"]) for row in rows] == [
        (6, 0.0, 1, 6),
        (1024, 1.0, 2, 1024),
    ]


def test_detector_figures_by_hand():
    def scanned(item, score, **more):
        return record("scan", item, None, scores={"noise_gap": score}, **more)

    records = [
        scanned("a", 3.0),
        scanned("b", 1.0),
        scanned("n", 2.0, kind="nonmember"),
        scanned("m", 0.5, kind="nonmember"),
        scanned("x", None, kind="nonmember"),
    ]
    found = detector_figures(records, {"a", "b"})["noise_gap"]
    assert found["auroc"] == 0.75 and found["tpr_at_1_fpr"] == 0.5
    assert (found["n"], found["n_nonmembers"], found["unscored"]) == (2, 2, 1)
    assert detector_figures([scanned("a", 3.0)], {"a"})["noise_gap"]["auroc"] is None


def test_utility_pairs_the_same_scene_and_seed():
    def scene(stage, item, seed, value):
        return record(stage, item, None, kind="scene", seed=seed, scores={"alignment": value})

    found = utility([scene("before", "s", 0, 0.5), scene("pruned", "s", 0, 0.4), scene("before", "s", 1, 0.9)])
    assert found["n"] == 1 and found["loss"] == pytest.approx(0.1) and found["unscored"] == 0
    after = utility(
        [scene("before", "s", 0, 0.5), scene("hardened", "s", 0, 0.2), scene("hardened", "s", 1, None)], "hardened"
    )
    assert after["loss"] == pytest.approx(0.3) and after["alignment_after"] == 0.2 and after["unscored"] == 1
    assert utility([scene("before", "s", 0, 0.5)]) is None
