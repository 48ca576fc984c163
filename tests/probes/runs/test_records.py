"""The keys of run.json, records.jsonl and summary.json: what is written is what the types say, and mypy holds to it."""

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from probes.report.summary import StoredSummary, Summary, stored_summary
from probes.runs.folder import Run, RunAbout
from probes.runs.records import Record
from tests.probes.report.demo import demo_run

ROOT = Path(__file__).resolve().parents[3]

WRONG = """
from probes.report.summary import StoredSummary, Summary
from probes.runs.folder import Run
from probes.runs.records import Record

def read(run: Run, record: Record, summary: Summary, figures: StoredSummary) -> None:
    record["picture"], summary["rows"][0]["rate"], figures["pruned"], run.about["kind"]
    record["pictures"]
    summary["row"]
    summary["rows"][0]["share"]
    figures["prund"]
    run.about["kinds"]

def write(run: Run) -> None:
    run.append({"id": "a", "stage": "scan", "score": {}})
    run.note(known=[])
"""


@pytest.mark.slow
def test_a_wrong_key_is_an_error_of_mypy(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "wrong.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "wrong.py" in line and ": error:" in line}
    assert lines == {8, 9, 10, 11, 12, 15, 16}, done.stdout


def test_what_a_run_writes_has_these_keys_alone(tmp_path):
    run = Run.open(demo_run(tmp_path / "run"))
    records = list(run.records())
    assert run.about.keys() == get_type_hints(RunAbout).keys() - {"known_ahead", "hardware"}
    assert {key for record in records for key in record} <= get_type_hints(Record).keys()
    figures = stored_summary(run, records)
    assert figures.keys() <= get_type_hints(StoredSummary).keys()
    assert get_type_hints(Summary).keys() <= figures.keys() | Summary.__optional_keys__
    rate = figures["rows"][0]
    assert rate.keys() <= get_type_hints(get_type_hints(Summary)["rows"].__args__[0]).keys()


def test_a_note_keeps_the_order_of_the_file(tmp_path):
    with Run.create(tmp_path, {"b": 1, "a": (2,)}, kind="scan") as run:
        before = list(run.about)
        run.note(known_ahead=["Nothing is known."])
        assert list(run.about) == [*before, "known_ahead"] and run.about["config"] == {"a": [2], "b": 1}
    assert Run.open(tmp_path).about == run.about
