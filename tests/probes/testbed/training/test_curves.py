"""The training's log: a step that was logged twice counts once, and each stage that has a log is a panel."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from probes.testbed.training.curves import plot, read_log


def log(folder: Path, stage: str, entries: list[tuple[int, float]]) -> Path:
    path = folder / f"{stage}.log.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in entries))
    return path


def test_of_a_step_that_was_logged_twice_the_later_entry_counts(tmp_path: Path) -> None:
    path = log(tmp_path, "draft", [(20, 3.0), (40, 2.0), (60, 1.0), (40, 1.5)])
    assert [(entry["step"], entry["loss"]) for entry in read_log(path)] == [(20, 3.0), (40, 1.5), (60, 1.0)]


def test_stages_with_a_log_have_a_panel_each(tmp_path: Path) -> None:
    stages = [f"stage{k}" for k in range(7)]
    for stage in stages[:6]:
        log(tmp_path, stage, [(20 * k, 1 / k) for k in range(1, 30)])
    red = []
    for number in (1, 5, 7):  # the seventh has no log, the sixth begins a second row
        plot(tmp_path, stages[:number], tmp_path / "plot.png")
        picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"), dtype=int)
        red.append((picture.shape[0], int((np.abs(picture - (192, 57, 43)).sum(2) < 60).sum())))
    (one, few), (five, more), (seven, most) = red
    assert one == five < seven and 0 < few < more < most
