"""What a scan says of the prompts it flagged: own columns, words, flagged.csv, prevalence, and the page."""

import csv
import json
from dataclasses import replace

import pytest
from pyarrow import parquet

from probes.drawing.draw import Sampling
from probes.inputs.prompts import read_prompts
from probes.report.html import write_report
from probes.runs.folder import Run
from probes.scan.merge import merge
from probes.scan.scan import format_scan, scan
from probes.scan.shards import Shard
from shield.calibration.self_calibrate import self_calibrate
from shield.detectors import StructureGap
from shield.errors import BadRequestError
from shield.model.loading import load
from shield.thresholds import save_threshold

pytestmark = pytest.mark.usefixtures("shipped")

ROWS = [
    {"id": "A-7", "prompt": "the cat", "price": 3, "score_x": 0.5, "good": True, "nested": [1]},
    {"id": "A-8", "prompt": "red thing", "price": 4, "score_x": 1.5, "good": False},
    {"id": "A-9", "prompt": "the end", "price": 5},
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def limits(tmp_path_factory, shipped):
    """A folder with a threshold below every score."""
    folder = tmp_path_factory.mktemp("limits")
    prompts = [f"a {n}" for n in range(19)]
    call = {"num_inference_steps": 3}
    (made,) = self_calibrate(load("testbed", device="cpu"), [StructureGap()], call, fpr=0.05, prompts=prompts)
    save_threshold(replace(made, value=-1.0), folder)
    return folder


def run(file, out, **options):
    usual = {"sampling": Sampling(3, 5.0, 2), "device": "cpu", "show_progress": False, "detectors": ("structure_gap",)}
    return scan(file, out, **{**usual, **options})


def test_own_columns_stay_with_their_prompts(file, tmp_path):
    assert [one.columns for one in read_prompts(file)] == [
        {name: value for name, value in row.items() if name not in ("prompt", "nested")} for row in ROWS
    ]
    rows = parquet.read_table(run(file, tmp_path / "run").table).to_pylist()
    assert [(row["own_id"], row["price"], row["own_score_x"], row["good"]) for row in rows] == [
        ("A-7", 3, 0.5, True),
        ("A-8", 4, 1.5, False),
        ("A-9", 5, None, None),
    ]
    assert all(row["id"] != row["own_id"] for row in rows)
    assert not (tmp_path / "run" / "flagged.csv").exists()


def test_flagged_prompts_with_words_prevalence_and_page(file, limits, tmp_path):
    done = run(file, tmp_path / "run", thresholds=limits, seeds=(500, 501), words=2, tpr="19/20")
    found = done.summary["flagged_prompts"]
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    assert {row["columns"]["id"] for row in found} == {"A-7", "A-8", "A-9"} and found[0]["noises"] == 2
    assert [bool(row["words"]) for row in found] == [True, True, False]
    for row in found[:2]:
        assert [text for text, _ in row["words"]] == row["prompt"].split()
        assert sum(share for _, share in row["words"]) == pytest.approx(1.0)
    with open(tmp_path / "run" / "flagged.csv", newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [(row["id"], row["threshold"]) for row in written] == [(row["columns"]["id"], "-1.0") for row in found]
    assert written[0]["words"].count(",") == 1 and written[2]["words"] == ""
    prevalence = done.summary["prevalence"]
    assert prevalence["fpr"]["value"] == pytest.approx(0.05) and prevalence["tpr"]["value"] == 0.95
    assert prevalence["value"] == 1.0 and prevalence["low"] < 1.0
    assert any("Rogan" in line for line in format_scan(done.summary))
    page = write_report(tmp_path / "run").read_text()
    assert "Flagged prompts" in page and "id: A-8" in page and "threshold -1 (dashed)" in page
    assert json.loads((tmp_path / "run" / "report.json").read_text())["sentences"][0].startswith("6 of 6 scores")


def test_pictures_and_shards_say_the_same(file, limits, tmp_path):
    drawn = run(file, tmp_path / "pictures", thresholds=limits, pictures=True, words=1)
    parts = [run(file, tmp_path / str(n), thresholds=limits, words=1, shard=Shard(n, 2)) for n in range(2)]
    merged = merge([part.folder for part in parts], tmp_path / "merged")
    for done, worded in ((drawn, 1), (merged, 2)):
        assert done.summary["calibration"]["fpr"] == 0.05 and done.summary["flagged_count"] == 3
        assert sum(bool(row["words"]) for row in done.summary["flagged_prompts"]) == worded
    scores = [[row["score"] for row in done.summary["flagged_prompts"]] for done in (drawn, merged)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_what_the_detector_finds_is_counted_in_a_scan(file, limits, tmp_path):
    memorized = run(file, tmp_path / "memorized", thresholds=limits, words=0)
    done = run(file, tmp_path / "run", thresholds=limits, words=0, tpr=str(memorized.folder))
    assert done.summary["prevalence"]["tpr"]["value"] == 1.0
    assert not any(entry["stage"] == "words" for entry in done.summary["cost"])
    unknown = run(file, tmp_path / "unknown", thresholds=limits, words=0).summary
    assert unknown["prevalence"]["value"] is None and any("--tpr" in line for line in format_scan(unknown))
    for given, why in (("5/4", "0 to n"), (str(run(file, tmp_path / "none").folder), "no threshold")):
        with pytest.raises(BadRequestError, match=why):
            run(file, tmp_path / "refused", tpr=given)
    with pytest.raises(BadRequestError, match="made with steps"):
        run(file, tmp_path / "refused", tpr=str(memorized.folder), steps=2)
    assert not (tmp_path / "refused").exists()
    assert Run.open(memorized.folder).status == "complete"
