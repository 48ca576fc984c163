"""What the README and docs/results.md claim is what the result files say."""

import json
from pathlib import Path

import pytest

from probes.bench.pages import BLOCKS, PAGES, fill, filled

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_the_result_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- end -->" in text and filled(text, ROOT) == text


def test_every_block_stands_on_a_page() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in BLOCKS if f"<!-- {name} -->" not in text] == []


def test_a_changed_figure_is_filled_in(tmp_path: Path) -> None:
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text("a <!-- spill -->old<!-- end --> b\n", encoding="utf-8")
    file = tmp_path / BLOCKS["spill"][0]
    file.parent.mkdir(parents=True)
    rate = {"copied": 0.0, "share": 0.25, "n": 8}
    side = {kind: {metric: rate for metric in ("tiled_l2", "pdq")} for kind in ("own", "any_work")}
    file.write_text(json.dumps({"nonmembers": {"memorized": side, "clean": side}}), encoding="utf-8")
    assert len(fill(tmp_path)) == len(PAGES) and not fill(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "0 times in 8 pictures" in text and "2 times by tiled L2" in text and text.endswith("<!-- end --> b\n")
