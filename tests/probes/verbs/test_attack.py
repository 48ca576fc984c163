"""`diffshield attack`: members and both controls at equal budget, starts, verdicts, and what isn't there."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from probes.audit.request import AuditRequest
from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.errors import TensorFileError
from probes.inputs.cohorts import Sizes
from probes.localizers import RandomMask
from probes.report.wording import wording_of
from probes.runs.folder import Run
from probes.types import Subject
from probes.verbs.attack import ATTACK, UNPRUNED, attack, attack_plan, format_attack, verdicts
from shield.errors import BadRequestError
from tests.tiny import tiny_sd

pytestmark = pytest.mark.usefixtures("shipped")

PLAN = replace(ATTACK, sizes=Sizes(members=1, nonmembers=1, scenes=0), picture_seeds=(1,), sampling=Sampling(2, 5.0, 8))


def run(out, request=None, **options):
    return attack(
        out,
        request or AuditRequest(device="cpu"),
        **{"steps": (0, 1, 2), "batch": 1, "plan": PLAN, "show_progress": False, **options},
    )


def members(done):
    """Records of the one member, by stage and number of steps."""
    return {(r["stage"], r["attack_steps"]): r for r in Run.open(done.folder).records() if r["kind"] == "work"}


def test_members_and_controls_on_a_pruned_model(tmp_path):
    mask = RandomMask(density=0.1).locate(Subject(tiny_sd(), "tiny")).mask
    mask.save(tmp_path / "mask.safetensors")
    done = run(tmp_path / "run", mask=tmp_path / "mask.safetensors")
    stages = ("attacked", "nonmember_attacked", "twin_attacked")
    assert [(row["stage"], row["attack_steps"], row["n"]) for row in done.summary["curve"]] == [
        (stage, steps, 1) for stage in stages for steps in (0, 1, 2)
    ]
    cost = {entry["stage"]: entry["evaluations"] for entry in done.summary["cost"]}
    # Two search steps of one draw, then two new pictures of two steps and two halves; on each side the same.
    assert [cost[stage] for stage in stages] == [2 + 2 * 2 * 2] * 3 and "before" not in cost
    records = members(done)
    assert records["attacked", 0]["picture"] == records["pruned", None]["picture"]
    assert records["twin_attacked", 0]["model"] == "testbed-clean"
    assert len(done.summary["verdicts"]) == 2 and done.report.is_file()
    assert sum("clean twin," in line for line in format_attack(done.summary)) == 3
    again = run(tmp_path / "run", mask=tmp_path / "mask.safetensors", resume=True)
    assert again.summary["curve"] == done.summary["curve"]


def test_without_a_mask_the_model_itself_is_attacked_from_noise(tmp_path):
    done = run(tmp_path / "run", init="noise", steps=(0, 1))
    assert done.summary["limits"][0] == UNPRUNED
    records = members(done)
    # The search starts from noise, so its zeroth step isn't the caption's picture.
    assert records["attacked", 0]["picture"] != records["before", None]["picture"]
    item = records["attacked", 0]["item"]
    ours, twin = (
        load_file(done.folder / "embeddings" / stage / f"{item}.safetensors")["0"]
        for stage in ("attacked", "twin_attacked")
    )
    assert ours.equal(twin) and 0.8 < float(ours.std()) < 1.2


def test_embeddings_that_were_damaged_are_one_sentence(tmp_path):
    done = run(tmp_path / "run", steps=(0, 1))
    item = members(done)["attacked", 0]["item"]
    file = done.folder / "embeddings" / "attacked" / f"{item}.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    stages = done.folder / "stages.json"
    stages.write_text(json.dumps([entry for entry in json.loads(stages.read_text()) if entry["stage"] != "attacked"]))
    with pytest.raises(TensorFileError, match="can't be read") as caught:
        run(tmp_path / "run", steps=(0, 1), resume=True)
    assert item in str(caught.value) and "Delete it" in str(caught.value)
    file.unlink()
    assert run(tmp_path / "run", steps=(0, 1), resume=True).summary["curve"] == done.summary["curve"]


def test_a_model_without_controls_says_so(tmp_path, weights):
    prompts = tmp_path / "own.csv"
    pictures = sorted((weights / "testbed" / "works").glob("*.png"))[:3]
    prompts.write_text("caption,picture\n" + "".join(f"thing {n},{path}\n" for n, path in enumerate(pictures)))
    request = AuditRequest(str(weights / "testbed" / "clean"), prompts, limit=3, device="cpu")
    done = run(tmp_path / "run", request, steps=(1,))
    assert [row["stage"] for row in done.summary["curve"]] == ["attacked"] and done.summary["verdicts"] == []
    assert any("clean twin" in limit for limit in done.summary["limits"])
    assert any("matched non-member" in limit for limit in done.summary["limits"])


def test_verdicts_by_hand():
    rows = [
        {
            "stage": "attacked",
            "control": "twin_attacked",
            "attack_steps": steps,
            "gap": low + 0.1,
            "low": low,
            "high": low + 0.2,
        }
        for steps, low in ((1, 0.0), (10, 0.3), (50, -0.1))
    ]
    assert verdicts(rows) == [
        "Against the same works on the clean twin: the attack brings back more at 10 steps; no gap is shown at 1, 50."
    ]
    assert "shows no memory" in verdicts(rows[:1])[0]
    assert "brings back more at level 10; no" in verdicts(rows, wording_of("paraphrase"))[0]
    assert verdicts([{**rows[1], "stage": "hardened_attacked"}])[0].startswith("Hardened, against the same works")
    assert verdicts([{**rows[0], "gap": None}]) == [
        "Against the same works on the clean twin: nothing could be judged."
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"init": "nonsense"},
        {"init": "other"},
        {"init_prompt": "x"},
        {"steps": ()},
        {"steps": (0,)},
        {"steps": (-1, 5)},
        {"batch": 0},
    ],
)
def test_searches_that_cant_be(wrong):
    options = {"steps": (0, 5), "init": "caption", "init_prompt": None, "batch": 1, **wrong}
    with pytest.raises(BadRequestError):
        attack_plan(PLAN, **options)
    assert attack_plan(PLAN, (5, 0, 5), "other", "a cat", 2).snapshots == (0, 5)


def test_the_verb_names_its_report(tmp_path):
    done = CliRunner().invoke(
        app,
        [
            "attack",
            "--out",
            str(tmp_path / "run"),
            "--at",
            "0,1",
            "--batch",
            "1",
            "--seeds",
            "1",
            "--steps",
            "1",
            "--device",
            "cpu",
        ],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.strip().splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert UNPRUNED in done.stdout and "Against the same works on the clean twin" in done.stdout
