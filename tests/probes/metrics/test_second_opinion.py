"""What SSCD says beside the metric that decides, and of how many pictures it says otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probes.metrics import CopyJudge, TiledL2, calibrate
from probes.metrics.second_opinion import SSCD_LINE, AnyOf, opinion, said_by_sscd, sscd_metric, with_sscd
from probes.report.figures import rate_row
from probes.report.format import share_by_both


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
    assert said_by_sscd([one.scores for one in found]) == [True, False]
    assert said_by_sscd([{"tiled_l2": 0.1}, {"sscd": None}, {"sscd_int8": 0.51}]) == [None, None, True]

    works = AnyOf(both, pictures[:2])
    assert works.copied([soft, None, pictures[5]]) == [True, False, False]
    assert works.copied_by_sscd([soft, None, pictures[5]]) == [True, False, False]
    assert AnyOf(plain, pictures[:2]).copied_by_sscd([soft, None]) == [None, None]
    assert works.copied([None]) == [False] and works.copied_by_sscd([]) == []


def test_an_opinion_counts_copies_and_disagreements_among_what_both_could_score() -> None:
    found = opinion([True, True, False, None], [True, False, False, True], ["a", "b", "c", "d"])
    assert found is not None and (found["n"], found["count"], found["disagree"]) == (3, 2, 1)
    assert found["share"] == pytest.approx(2 / 3) and found["low"] < 2 / 3 < found["high"]
    assert opinion([None, None], [True, False], ["a", "b"]) is None


def test_a_row_of_records_has_it_beside_its_rate() -> None:
    scores = ({"tiled_l2": 0.0, "sscd_int8": 0.9}, {"tiled_l2": 0.1, "sscd_int8": 0.4}, {"tiled_l2": 0.4})
    records = [{"item": item, "copied": item != "c", "scores": one} for item, one in zip("abc", scores, strict=True)]
    row = rate_row(records, "tiled_l2")
    assert row["by_sscd"] is not None and (row["by_sscd"]["count"], row["by_sscd"]["disagree"]) == (1, 1)
    assert share_by_both(row, "rate").startswith("67% [") and share_by_both(row, "rate").endswith("; SSCD 50%")
    without = rate_row(records[2:], "tiled_l2")
    assert without["by_sscd"] is None and "SSCD" not in share_by_both(without, "rate")
