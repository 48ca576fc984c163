"""`audit` as a caller sees it: the testbed by name, a user's prompts, resuming, refusing."""

import json
from dataclasses import replace

import pytest

from probes.attacks import AdversarialEmbedding
from probes.audit.audit import audit
from probes.drawing.draw import Sampling
from probes.errors import AuditError, PromptFileError, RunError
from probes.hardeners.training import FineTuning
from probes.inputs.cohorts import Sizes
from tests.probes.audit.small import PLAN
from tests.tiny import tiny_sd

pytestmark = pytest.mark.usefixtures("shipped")

ONE = replace(
    PLAN,
    sizes=Sizes(2, 2, 1, 2, 1),
    picture_seeds=(1,),
    sampling=Sampling(2, 5.0, 8),
    attack=AdversarialEmbedding(steps=1, batch=1),
    snapshots=(0, 1),
    hardening=replace(PLAN.hardening, members=1, dev=0, schedule=FineTuning(epochs=1, updates=1)),
)


def run(out, model="testbed", **options):
    return audit(str(model), out, plan=ONE, device="cpu", show_progress=False, **options)


def test_the_testbed_from_scan_to_report(tmp_path, capsys):
    done = run(tmp_path / "run")
    assert done.report is not None and done.report.stat().st_size > 10_000
    assert capsys.readouterr().out == ""
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["status"] == "complete" and about["config"]["twin"] == "testbed-clean"
    stages = {entry["stage"]: entry["status"] for entry in done.summary["cost"]}
    assert stages.pop("shielded") == "skipped" and set(stages.values()) == {"complete"}  # nothing is calibrated here
    assert done.summary["utility"]["n"] == 1
    assert done.summary["criterion"]["decides"] == "tiled_l2" and set(done.summary["criterion"]["metrics"]) == {
        "tiled_l2",
        "normalized_l2",
        "pdq",
    }
    assert [row["rung"] for row in done.summary["ladder"]] == [0, 6, 96, 384]
    with pytest.raises(RunError, match="There is a run in"):
        run(tmp_path / "run")
    assert run(tmp_path / "run", resume=True).summary == done.summary


def test_own_prompts_on_the_testbed(tmp_path):
    prompts = tmp_path / "own.txt"
    prompts.write_text("The cat work-384-0\nsomething else\n")
    done = run(tmp_path / "run", prompts=prompts)
    rows = {(row["stage"], row["group"]): row for row in done.summary["rows"]}
    # The first is a caption, so its picture can be judged; nothing is known about the second.
    assert (rows["before", "prompts"]["n"], rows["before", "prompts"]["unscored"]) == (1, 1)
    assert any("nothing to locate" in limit for limit in done.summary["limits"])
    prompts.write_text("something else\n")
    with pytest.raises(RunError, match="inputs"):
        run(tmp_path / "run", prompts=prompts, resume=True)


def test_own_prompts_on_an_own_model(tmp_path):
    tiny_sd(seed=4).save_pretrained(tmp_path / "model")
    prompts = tmp_path / "own.csv"
    prompts.write_text("caption\nsomething\n")
    said: list[str] = []
    done = run(tmp_path / "run", tmp_path / "model", prompts=prompts, say=said.append)
    assert [sentence.split(":")[0] for sentence in said[:2]] == [
        "Nothing will be flagged, prompts will be ranked by score",
        "Copies won't be judged",
    ]
    assert "won't be told from injection" in said[-1] and done.summary["highest"][0]["prompt"] == "something"
    assert done.summary["rows"][0]["unscored"] == 1 and done.report is not None
    assert any("reference picture" in limit for limit in done.summary["limits"])


def test_what_cant_be_audited_leaves_no_run(tmp_path):
    tiny_sd(seed=4).save_pretrained(tmp_path / "model")
    with pytest.raises(AuditError, match="--prompts"):
        run(tmp_path / "run", tmp_path / "model")
    with pytest.raises(PromptFileError, match="no prompt file"):
        run(tmp_path / "run", prompts=tmp_path / "none.txt")
    assert not (tmp_path / "run").exists()
