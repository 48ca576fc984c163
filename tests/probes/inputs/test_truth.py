"""A copy criterion from a user's pictures, also from such as not every metric can score."""

import pytest
from PIL import Image

from probes.inputs.cohorts import Cohorts
from probes.inputs.prompts import PromptRecord
from probes.inputs.truth import copy_judge, judge_for
from shield.errors import NotCalibratedError
from tests.tiny_families import tiny_picture

FLAT = [Image.new("RGB", (64, 64), color) for color in ("white", "red", "navy", "green")]


def test_flat_pictures_are_judged_without_pdq_and_it_is_said():
    judge = copy_judge(FLAT, "flat pictures")
    same, other, none = judge.judge([FLAT[1], FLAT[1], FLAT[1]], [FLAT[1].copy(), FLAT[2], None])
    assert same.copied is True and other.copied is False and none.copied is None
    assert same.scores["pdq"] is None and same.scores["tiled_l2"] == 0 and set(none.scores) == set(same.scores)
    (said,) = judge.limits
    assert said.startswith("Copies are judged without pdq: ") and "got 0 of 4" in said
    assert "pdq" in judge.describe()["left_out"] and "pdq" not in judge.describe()["metrics"]


def test_a_scans_limits_tell_it(tmp_path):
    prompts = []
    for number, picture in enumerate(FLAT):
        picture.save(tmp_path / f"{number}.png")
        prompts.append(PromptRecord(f"p{number}", "the cat", "prompt", reference=tmp_path / f"{number}.png"))
    judge, limits = judge_for(None, Cohorts(prompts=tuple(prompts)))
    assert judge is not None and any("without pdq" in sentence for sentence in limits)


def test_pictures_with_detail_are_judged_by_all():
    judge = copy_judge([tiny_picture(seed).resize((128, 128)) for seed in range(4)], "pictures")
    assert [metric.name for metric in judge.metrics] == ["tiled_l2", "normalized_l2", "pdq"]
    assert not judge.limits and "left_out" not in judge.describe()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_are_refused_in_one_way(count):
    with pytest.raises(NotCalibratedError, match="at least 3 non-member pictures"):
        copy_judge(FLAT[:count], "flat pictures")
