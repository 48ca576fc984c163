"""`diffshield scan --trajectory`: scores at points of the schedule, flagged by thresholds of one budget."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.runs.folder import Run
from probes.scan.scan import scan
from shield.calibration import detectors as calibration
from shield.calibration.trajectories import calibrate_trajectory
from shield.detectors import StructureGap
from shield.errors import BadRequestError
from shield.home import home
from shield.runtime.trajectory import detectors_at
from shield.thresholds import save_threshold
from tests.shield.calls import NEGATIVES, PROMPTS
from tests.tiny import tiny_sd

POINTS = (0.0, 0.5)


def scanned(out, pipe, file, **options):
    file.write_text("\n".join(PROMPTS))
    call = {"sampling": Sampling(3, 5.0, 2), "show_progress": False, "detectors": ("structure_gap", "noise_gap")}
    return scan(file, out, model="tiny", pipe=pipe, **{"points": POINTS, **call, **options})


@pytest.fixture
def pipe(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    return tiny_sd()


def test_every_look_is_a_score_and_any_of_them_flags(pipe, tmp_path):
    done = scanned(tmp_path / "bare", pipe, tmp_path / "prompts.txt")
    records = list(Run.open(tmp_path / "bare").records())
    names = ["structure_gap", "kept_structure at 0.5", "noise_gap", "noise_gap at 0.5"]
    assert [list(r["scores"]) for r in records] == [names] * 4
    assert {r["flagged"] for r in records} == {None} and done.summary["cost"][0]["evaluations"] == 4 * 2 * 2
    late = sorted(r["scores"]["kept_structure at 0.5"] for r in records)
    asked = detectors_at((StructureGap(),), POINTS)
    made = calibrate_trajectory(pipe, asked, NEGATIVES, [0], 0.1, "tiny", calibration.NegativeSampling(3, 5.0, 25))
    for threshold in made:
        value = (late[-1] + late[-2]) / 2 if threshold.options["point"] else 1e9
        save_threshold(replace(threshold, value=value), home() / "thresholds")
    scanned(tmp_path / "judged", pipe, tmp_path / "prompts.txt")
    judged = list(Run.open(tmp_path / "judged").records())
    assert [r["flagged"] for r in judged] == [r["scores"]["kept_structure at 0.5"] == late[-1] for r in judged]
    flags = [look["flagged"] for r in judged if r["flagged"] for look in r["trajectory"]]
    assert flags == [False, True, None, None]
    assert [look["step"] for look in judged[0]["trajectory"]] == [0, 1, 0, 1]


def test_points_on_one_step_are_one_score_and_it_is_said(pipe, tmp_path):
    told = []
    scanned(
        tmp_path / "run",
        pipe,
        tmp_path / "prompts.txt",
        sampling=Sampling(2, 5.0, 4),
        say=told.append,
        points=(0.0, 0.18),
        detectors=("structure_gap",),
    )
    records = list(Run.open(tmp_path / "run").records())
    assert [list(record["scores"]) for record in records] == [["structure_gap"]] * 4
    assert [[look["step"] for look in record["trajectory"]] for record in records] == [[0]] * 4
    assert "Of 2 steps the points 0 and 0.18 fall on step 1, which is one look." in told


def test_a_detector_that_reads_several_steps_is_refused(pipe, tmp_path):
    with pytest.raises(BadRequestError, match="anisotropy can't look again"):
        scanned(tmp_path / "run", pipe, tmp_path / "prompts.txt", detectors=("anisotropy",))
    with pytest.raises(BadRequestError, match="leave --read-steps"):
        scanned(tmp_path / "run", pipe, tmp_path / "prompts.txt", steps=2)


def test_points_need_the_option(tmp_path):
    told = CliRunner().invoke(app, ["scan", "--out", str(tmp_path / "run"), "--points", "0,0.5"])
    assert told.exit_code == 2 and "--trajectory" in told.output
