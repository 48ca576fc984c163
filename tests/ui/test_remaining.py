"""How long a run still takes: by hand arithmetic."""

import os
from pathlib import Path

import pytest

from probes.report.wording import FLOW
from probes.runs.folder import Run, write_json
from ui.folders import Folders, stages_of
from ui.remaining import QUICK, audit_seconds, in_words, scan_seconds

MODEL = {"name": "m", "sha256": "s"}
SECONDS = {"work": 1.0, "scan": 9.0, "before": 40.0, "shielded": 60.0}


def audit(root: Path, name: str, status: str, seconds: dict[str, float], plan: str = "small") -> Run:
    with Run.create(
        root / name, {"quick": True, "plan": plan}, kind="audit", model={"name": "m", "sha256": "s"}
    ) as run:
        run.finish(status)
    entries = [{"stage": stage, "status": "complete", "seconds": spent} for stage, spent in seconds.items()]
    write_json(root / name / "stages.json", entries)
    os.utime(root / name / "stages.json", (1000.0, 1000.0))
    return Run.open(root / name)


def test_an_audit_takes_as_much_longer_as_it_took_so_far(tmp_path: Path) -> None:
    audit(tmp_path, "done", "complete", SECONDS)
    audit(tmp_path, "other", "complete", {stage: 1.0 for stage in SECONDS}, plan="large")
    now = audit(tmp_path, "now", "running", {"work": 2.0, "scan": 18.0})
    entries = stages_of(now)
    folders = Folders(tmp_path)
    assert audit_seconds(folders, now, entries, 1000.0) == pytest.approx(2 * (40 + 60)), "twice as slow"
    assert audit_seconds(folders, now, entries, 1030.0) == pytest.approx(200 - 30), "and 30 s into the stage"
    assert audit_seconds(folders, now, entries, 9000.0) == 0.0
    assert audit_seconds(folders, now, [], 1000.0) == pytest.approx(sum(SECONDS.values())), "no pace yet"


def test_without_one_like_it_evaluations_stand_in_for_a_quick_audit_of_the_models_own_works(tmp_path: Path) -> None:
    now = audit(tmp_path, "now", "running", {"scan": 1.0, "before": 27.29})
    folders, entries, done = Folders(tmp_path), stages_of(now), QUICK["scan"] + QUICK["before"]
    pace = 28.29 / done
    assert audit_seconds(folders, now, entries, 1000.0) == pytest.approx(pace * (sum(QUICK.values()) - done))
    assert audit_seconds(folders, now, entries[:1], 1000.0) is None, "no pace yet"
    assert set(QUICK) <= set(FLOW)
    with Run.create(tmp_path / "own", {"quick": True, "plan": "p"}, kind="audit", inputs=[{"path": "x"}]) as own:
        assert audit_seconds(folders, own, entries, 1000.0) is None


def test_a_scan_goes_on_at_its_pace() -> None:
    assert scan_seconds((100.0, 10), 30, 90, 120.0) == pytest.approx(60.0)
    assert scan_seconds((100.0, 10), 10, 90, 120.0) is None
    assert scan_seconds(None, 10, 90, 120.0) is None and scan_seconds((100.0, 10), 30, None, 120.0) is None


def test_it_is_said_in_minutes() -> None:
    said = [in_words(seconds) for seconds in (None, 20.0, 70.0, 170.0)]
    assert said == ["", "less than a minute left", "about 1 minute left", "about 3 minutes left"]
