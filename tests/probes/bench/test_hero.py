"""The README's first picture is what its command draws."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probes.bench.hero import BAND, COLUMNS, GAP, SIDE, hero, strip
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from shield.errors import BadRequestError
from shield.protected.pictures import open_image

STORED = Path(__file__).resolve().parents[3] / "docs" / "hero.png"


def cells(strip_of: Image.Image) -> list[list[np.ndarray]]:
    """The strip's pictures, row by row."""
    rows = (strip_of.height - BAND) // (SIDE + BAND)
    return [
        [
            np.asarray(strip_of.convert("RGB").crop((left, top, left + SIDE, top + SIDE)), float)
            for left in range(GAP, strip_of.width, SIDE + GAP)
        ]
        for top in (BAND + line * (SIDE + BAND) for line in range(rows))
    ]


def test_each_picture_stands_in_its_place_and_words_beside_them() -> None:
    colors = ["red", "green", "blue", "black"]
    made = strip([[Image.new("RGB", (8, 8), color) for color in colors]], ["a name"])
    (row,) = cells(made)
    assert [tuple(cell.reshape(-1, 3).mean(0)) for cell in row] == [
        (255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)
    ]  # fmt: skip
    around = np.asarray(made.convert("L")).copy()
    around[BAND : BAND + SIDE] = 255
    assert (around[:BAND] < 128).any() and (around[BAND + SIDE :] < 128).any()


def test_the_stored_strip_shows_works_that_are_held_out() -> None:
    works, rows = load_manifest().shown(), cells(Image.open(STORED))
    assert {work.split for work in works} == {"heldout"}
    assert len(rows) == len(works) and all(len(row) == len(COLUMNS) for row in rows)
    judge = copy_judge()
    for work, row in zip(works, rows, strict=True):
        pictures = [Image.fromarray(cell.astype(np.uint8)) for cell in row]
        copied = [one.copied for one in judge.judge(pictures, [open_image(work.file)] * len(row))]
        assert copied == [True, True, False, False], "the original, a copy of it, and two that aren't"


def test_a_work_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="no work 'work-9999'"):
        hero(tmp_path / "hero.png", ["work-9999"])


@pytest.mark.slow
def test_the_command_draws_the_stored_strip(tmp_path: Path) -> None:
    assert hero(tmp_path / "hero.png", device="cpu") == ["mitigated"] * len(load_manifest().shown())
    for row, kept in zip(cells(Image.open(tmp_path / "hero.png")), cells(Image.open(STORED)), strict=True):
        assert all(np.abs(one - other).mean() < 3 for one, other in zip(row, kept, strict=True))
