"""Plots show what the result files say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from probes.bench import plots
from probes.bench.detectors import ranked

STORED = Path(__file__).resolve().parents[3] / "docs" / "bench" / "first"


def stored(name: str) -> Any:
    return json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_result_file_is_drawn_beside_itself(name: str, tmp_path: Path) -> None:
    assert (STORED / f"{name}.png").exists()
    shutil.copy(STORED / f"{name}.json", tmp_path)
    assert plots.draw(tmp_path) == [tmp_path / f"{name}.png"] == plots.draw(tmp_path, [name])
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_a_panel_for_each_detector_the_best_first() -> None:
    result = stored("detectors")
    panels = [axes for axes in plots.detectors(result).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ranked(result) != sorted(result["detectors"])
    top = result["detectors"][ranked(result)[0]]["groups"]
    top = top[[name for name in top if name.startswith("rung ")][-1]]
    assert [line.get_ydata()[-1] for line in panels[0].lines[:3]] == [
        top["auroc_nonmembers"],
        top["auroc_scenes"],
        top["auroc_on_twin"],
    ]


def test_masks_stand_beside_as_many_random_weights() -> None:
    result = stored("localizers")
    above = plots.localizers(result).axes[0]
    rows = {row["name"]: row for row in result["heldout"]}
    dots = {(line.get_xdata()[0], line.get_ydata()[0]) for line in above.lines if len(line.get_xdata()) == 1}
    assert "published" in above.get_legend_handles_labels()[1]
    for name in ("published", "published, random", "strongest", "value_neurons, random"):
        assert (rows[name]["loss"]["value"], rows[name]["copies"]["share"]) in dots


def test_scenes_that_are_all_blocked_have_no_agreement() -> None:
    """They stand apart on the left, beyond every agreement."""
    result = stored("mitigations")
    bars = {bar.get_label(): bar[0].get_xdata()[0] for bar in plots.mitigations(result).axes[0].containers}
    assert set(bars) == set(result["rows"])
    none = {name for name, row in result["rows"].items() if row["agreement"] is None}
    assert none and max(bars[name] for name in none) < min(bars[name] for name in set(bars) - none)


def test_a_result_without_works_has_no_plot_yet(tmp_path: Path) -> None:
    """As `bench shield --parts scenes` leaves it in a new folder."""
    found = {key: value for key, value in stored("shield").items() if key != "works"}
    (tmp_path / "shield.json").write_text(json.dumps(found), encoding="utf-8")
    assert plots.draw(tmp_path) == [] and not (tmp_path / "shield.png").exists()
