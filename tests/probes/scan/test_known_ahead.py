"""A scan of one's own prompts says first what it won't know, and ends with what can be known without it."""

import json

import pytest
from typer.testing import CliRunner

from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.inputs.known_ahead import controls_ahead, pictures_ahead, scores_ahead
from probes.inputs.prompts import PromptRecord
from probes.report.html import write_report
from probes.runs.folder import Run
from probes.scan.scan import format_scan, scan

SHORT = Sampling(2, 5.0, 8)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.txt"
    path.write_text("the cat\nred\n")
    return path


def test_what_wont_be_known_comes_first_and_a_ranking_and_agreement_last(model, file, tmp_path):
    said = []

    def say(sentence):
        assert not (tmp_path / "run" / "records.jsonl").exists()
        said.append(sentence)

    options = {"model": str(model), "sampling": SHORT, "device": "cpu", "show_progress": False, "pictures": True}
    done = scan(file, tmp_path / "run", seeds=(1, 2), benign=4, say=say, **options)
    assert [sentence.split(",")[0] for sentence in said] == [
        "Nothing will be flagged",
        "Copies won't be judged: 0 of 2 prompts have a reference picture (a column picture)",
        "Near-duplicates among the seeds of a prompt will be counted",
    ]
    command = f"`diffshield calibrate --model {model} --detectors structure_gap"
    assert command in said[0] and any(command in line for line in format_scan(done.summary))
    run = Run.open(tmp_path / "run")
    assert run.about["known_ahead"] == said
    drawn = [record for record in run.records() if record["stage"] == "benign"]
    assert len(drawn) == 8 and all((tmp_path / "run" / record["picture"]).is_file() for record in drawn)
    found = done.summary["agreement"]
    assert (
        found["own"]["n"] == 2
        and found["benign"]["n"] == 4
        and {row["prompt"] for row in found["prompts"]} == {"the cat", "red"}
    )
    assert any("Near-duplicates" in line for line in format_scan(done.summary))
    assert [row["prompt"] for row in done.summary["highest"]] and done.summary["scores"]["noise_gap"]["n"] == 4
    page = write_report(tmp_path / "run").read_text()
    assert "the cat" in page and "Pictures that agree over seeds" in page
    again = scan(file, tmp_path / "run", seeds=(1, 2), benign=4, resume=True, **options)
    assert len(list(Run.open(tmp_path / "run").records())) == 12 and again.summary["agreement"] == found


def test_the_verb_says_it_on_stderr(model, file, tmp_path):
    done = CliRunner().invoke(
        app, ["scan", str(file), "--model", str(model), "--out", str(tmp_path / "run"), "--schedule", "2", "--json"]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Nothing will be flagged" in done.stderr and json.loads(done.stdout)["summary"]["highest"]


def test_sentences():
    targets = [PromptRecord(str(n), "a") for n in range(3)]
    assert "won't be compared" in pictures_ahead(targets, 1, 20)[1] and "--benign" in pictures_ahead(targets, 2, 0)[1]
    assert "won't be told from injection" in controls_ahead(False)[0] and "twin" in controls_ahead(True)[0]
    assert scores_ahead(None, None) == []
