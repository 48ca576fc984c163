"""`diffshield scan`: scores of a prompt file, its table, its cost, resuming, and what is said without a threshold."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from pyarrow import parquet
from scipy.stats import mannwhitneyu
from typer.testing import CliRunner

from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.errors import AuditError, PromptFileError, RunError
from probes.report.figures import group_of
from probes.report.html import write_report
from probes.runs.folder import Run
from probes.scan.scan import format_scan, scan
from probes.testbed.manifest import load_manifest
from shield.calibration.self_calibrate import self_calibrate
from shield.detectors import NoiseGap
from shield.errors import BadRequestError
from shield.hooks.recording import recorded
from shield.model.loading import load
from shield.thresholds import save_threshold

pytestmark = pytest.mark.usefixtures("shipped")

PROMPTS = ["the cat", "red", "a thing", "other", "the end"]
SHORT = Sampling(3, 5.0, 2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([["caption"], *([prompt] for prompt in PROMPTS)])
    return path


def run(file, out, **options):
    return scan(file, out, **{"sampling": SHORT, "device": "cpu", "show_progress": False, **options})


def test_scores_of_a_file_in_both_formats(file, tmp_path):
    done = run(file, tmp_path / "run", seeds=(4, 5), detectors=("noise_gap",))
    records = list(Run.open(tmp_path / "run").records())
    assert [(r["prompt"], r["seed"]) for r in records] == [(prompt, seed) for prompt in PROMPTS for seed in (4, 5)]
    rows = parquet.read_table(done.table).to_pylist()
    assert [row["score_noise_gap"] for row in rows] == [r["scores"]["noise_gap"] for r in records]
    assert [row["id"] for row in rows] == [r["id"] for r in records] and rows[0]["copied"] is None
    pipe = load("testbed", device="cpu")
    with recorded(pipe, NoiseGap.needs, first_k=1, stop=True) as trace:
        pipe(["red"], generator=torch.Generator().manual_seed(5), num_inference_steps=3, guidance_scale=5.0)
    assert records[3]["scores"]["noise_gap"] == pytest.approx(NoiseGap().score(trace).item(), rel=1e-4)
    assert done.summary["cost"][0]["evaluations"] == 5 * 2 + 2  # prompts times seeds, seeds
    means = {
        r["prompt"]: (r["scores"]["noise_gap"] + records[2 * n + 1]["scores"]["noise_gap"]) / 2
        for n, r in enumerate(records[::2])
    }
    highest = max(means, key=means.get)
    assert done.summary["highest"][0]["prompt"] == highest
    assert math.isclose(done.summary["highest"][0]["score"], means[highest])


def test_more_steps_are_read_and_paid_for(file, tmp_path):
    one, two = (run(file, tmp_path / f"{steps}", steps=steps, limit=1) for steps in (1, 2))
    assert [done.summary["cost"][0]["evaluations"] for done in (one, two)] == [2, 4]
    assert one.summary["scores"]["noise_gap"]["median"] != two.summary["scores"]["noise_gap"]["median"]
    with pytest.raises(BadRequestError, match="1 to 3 steps"):
        run(file, tmp_path / "many", steps=4)


def test_pictures_meet_their_references(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("the cat work-384-0\nsomething else\n")
    done = run(file, tmp_path / "run", pictures=True)
    first, second = [r for r in Run.open(tmp_path / "run").records() if r["stage"] == "before"]
    assert first["copied"] is False and {"tiled_l2", "noise_gap", "alignment"} <= set(first["scores"])
    assert first["rung"] == 384 and second["copied"] is None and second["unjudged"]
    assert done.summary["rows"][0]["unscored"] == 1 and write_report(tmp_path / "run").stat().st_size > 5000


def test_the_testbeds_own_captions_have_a_truth(tmp_path):
    done = run(None, tmp_path / "run")
    scores: dict[str, list[float]] = {"members": [], "nonmembers": [], "scenes": []}
    for record in Run.open(tmp_path / "run").records():
        if group_of(record) != "members" or record["rung"] >= load_manifest().rungs[-2]:  # works that come out
            scores[group_of(record)].append(record["scores"]["noise_gap"])
    found = done.summary["detector"]["noise_gap"]
    assert (found["n"], found["n_nonmembers"]) == (len(scores["members"]), len(scores["nonmembers"]))
    wins = mannwhitneyu(scores["members"], scores["nonmembers"]).statistic
    assert found["auroc"] == pytest.approx(wins / found["n"] / found["n_nonmembers"])
    assert any("AUROC" in line for line in format_scan(done.summary))
    assert any("no threshold" in line for line in format_scan(done.summary))


def test_mistakes_leave_no_run(file, tmp_path):
    for error, options in (
        (BadRequestError, {"detectors": ("nothing",)}),
        (PromptFileError, {"column": "title"}),
        (RunError, {"file": tmp_path / "none.txt"}),
        (AuditError, {"file": None, "model": "x/y"}),
    ):
        with pytest.raises((error, PromptFileError)):
            run(options.pop("file", file), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_thresholds_of_a_folder_flag(file, tmp_path):
    """With and without pictures; the folder is part of what a resumed scan compares."""
    call, pipe = {"num_inference_steps": 3}, load("testbed", device="cpu")
    (made,) = self_calibrate(pipe, [NoiseGap()], call, fpr=0.5, prompts=["a"])
    save_threshold(replace(made, value=-1.0, interval=(-1.0, -1.0)), tmp_path / "limits")
    for pictures in (False, True):
        for place, thresholds in enumerate((None, tmp_path / "limits")):
            options = {"detectors": ("noise_gap",), "pictures": pictures, "limit": 2, "thresholds": thresholds}
            done = run(file, tmp_path / f"{pictures} {place}", **options)
            assert done.summary["flagged"] == 2 * place
    with pytest.raises(BadRequestError, match="no folder of thresholds at"):
        run(file, tmp_path / "none", thresholds=tmp_path / "nowhere")
    assert not (tmp_path / "none").exists()


def test_the_verb_prints_and_resumes(file, tmp_path):
    arguments = ["scan", str(file), "--out", str(tmp_path / "run"), "--limit", "2", "--steps", "3", "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.strip().endswith("results.parquet") and "3 denoiser evaluations" in done.stdout
    records = (tmp_path / "run/records.jsonl").read_bytes()
    assert CliRunner().invoke(app, arguments).exit_code == 2
    again = CliRunner().invoke(app, [*arguments, "--resume", "--json"])
    assert json.loads(again.stdout)["summary"]["scores"]["noise_gap"]["n"] == 2
    assert (tmp_path / "run/records.jsonl").read_bytes() == records
