"""`diffshield prune`: before and inside, random control, drift, the sweep from stored norms, the saved checkpoint."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from probes.audit.request import AuditRequest
from probes.audit.tradeoff import sweep
from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.errors import MaskError
from probes.inputs.cohorts import Sizes
from probes.localizers import FFNSubspace
from probes.report.drift import drift
from probes.runs.folder import Run
from probes.types import UnitMask
from probes.verbs.localize import localize
from probes.verbs.prune import PRUNE, format_pruning, prune, score_changes
from shield.errors import BadRequestError
from tests.tiny import tiny_sd

pytestmark = pytest.mark.usefixtures("shipped")

PLAN = replace(
    PRUNE, sizes=Sizes(members=1, nonmembers=1, scenes=1), picture_seeds=(1, 2), sampling=Sampling(2, 5.0, 8)
)
ASKED = AuditRequest(device="cpu")


@pytest.fixture(scope="module")
def located(tmp_path_factory, shipped):
    return localize(
        None,
        tmp_path_factory.mktemp("localize") / "run",
        device="cpu",
        limit=2,
        show_progress=False,
        localizer=FFNSubspace(k=0.2, tau=1, steps=2, guidance_scale=5.0),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, located):
    folder = tmp_path_factory.mktemp("prune")
    return prune(
        located.folder, folder / "run", ASKED, plan=PLAN, ks=(0.5, 0.1), save=folder / "saved", show_progress=False
    )


def records_of(done):
    return list(Run.open(done.folder).records())


def test_every_side_of_the_comparison_is_there(done, located):
    stages = {entry["stage"]: entry["status"] for entry in done.summary["cost"]}
    assert set(stages) == {
        "work",
        "before",
        "pruned",
        "random_pruned",
        "sweep-0.1",
        "sweep_random-0.1",
        "sweep-0.5",
        "sweep_random-0.5",
    } and set(stages.values()) == {"complete"}
    assert {(row["stage"], row["group"]): row["n"] for row in done.summary["rows"]} == {
        ("before", "members"): 2,
        ("before", "nonmembers"): 2,
        ("pruned", "members"): 2,
        ("pruned", "nonmembers"): 2,
        ("random_pruned", "members"): 2,
    }
    assert done.summary["utility"]["scenes"] == 1 and done.summary["mask"]["weights"] == located.mask.count()
    assert {(row["detector"], row["group"]) for row in done.summary["scores"]} == {
        (name, group) for name in PLAN.detectors for group in ("members", "nonmembers", "scenes")
    }
    assert all(row["before"] != row["pruned"] for row in done.summary["scores"])
    assert done.report.is_file() and any("moved by" in line for line in format_pruning(done.summary))


def test_drift_by_hand(tmp_path):
    rows = []
    for stage, seed, level in (("before", 1, 0), ("before", 2, 51), ("pruned", 1, 102), ("pruned", 2, 51)):
        Image.new("RGB", (64, 64), (level,) * 3).save(tmp_path / f"{stage}-{seed}.png")
        rows.append(
            {"stage": stage, "item": "scene-0", "seed": seed, "kind": "scene", "picture": f"{stage}-{seed}.png"}
        )
    (row,) = drift(tmp_path, rows, "pruned")
    # One picture moved by 102 / 255 = 0.4, the other by nothing; the two seeds were 51 / 255 = 0.2 apart.
    assert row["value"] == pytest.approx(0.2) and row["seeds"] == pytest.approx(0.2) and row["n"] == 2


def test_score_changes_by_hand():
    rows = [
        {"stage": stage, "item": item, "seed": 1, "kind": "scene", "scores": {"noise_gap": value}}
        for stage, item, value in (
            ("before", "a", 1.0),
            ("before", "b", 2.0),
            ("pruned", "a", 0.5),
            ("pruned", "b", None),
        )
    ]
    (row,) = score_changes(rows, ["noise_gap"])
    assert (row["before"], row["pruned"], row["change"], row["n"]) == (1.0, 0.5, -0.5, 1)


def test_the_sweep_draws_its_masks_without_new_activations(done, located):
    assert [row["k"] for row in done.summary["tradeoff"]] == [0.1, 0.5]
    thin, thick = done.summary["tradeoff"]
    assert 0 < thin["weights"] < located.mask.count() < thick["weights"]
    points = sweep(located.folder / "norms.safetensors", [0.2])
    assert points.mask(tiny_sd().unet, 0.2).iou(located.mask) == 1.0
    assert (done.folder / "tradeoff.svg").read_text().startswith("<svg")
    cost = {entry["stage"]: entry["evaluations"] for entry in done.summary["cost"]}
    assert cost["sweep-0.1"] == 2 * 2 * 2 * 2  # a member and a scene, seeds, steps, halves
    with pytest.raises(BadRequestError, match="shares k"):
        sweep(located.folder / "norms.safetensors", [0.0])
    wider = sweep(located.folder / "norms.safetensors", [0.2])
    with pytest.raises(MaskError, match="another model"):
        replace(wider, target={path: value[:, :1] for path, value in wider.target.items()}).mask(tiny_sd().unet, 0.2)


def test_the_saved_checkpoint_is_the_pruned_model(done, located):
    saved = StableDiffusionPipeline.from_pretrained(done.folder.parent / "saved", safety_checker=None).unet
    modules = dict(saved.named_modules())
    for path, mask in located.mask.masks.items():
        assert not modules[path].weight[mask].any() and modules[path].weight[~mask].any()
    intact = next(name for name, _ in saved.named_parameters() if "attn" in name)
    assert torch.equal(dict(saved.named_parameters())[intact], dict(tiny_sd().unet.named_parameters())[intact])


def test_a_second_start_does_nothing_again(done, located):
    before = (done.folder / "records.jsonl").read_bytes()
    again = prune(
        located.file,
        done.folder,
        ASKED,
        plan=PLAN,
        ks=(0.5, 0.1),
        save=done.folder.parent / "saved",
        resume=True,
        show_progress=False,
    )
    assert json.loads(json.dumps(again.summary)) == json.loads(json.dumps(done.summary))
    assert (done.folder / "records.jsonl").read_bytes() == before


def test_mistakes_leave_no_run(tmp_path, located):
    UnitMask({"nothing": torch.ones(2, 2, dtype=torch.bool)}).save(tmp_path / "other.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    other = tmp_path / "other.safetensors"
    for mask, options in (
        (tmp_path / "none.safetensors", {}),
        (other, {}),
        (other, {"ks": (0.1,)}),
        (located.file, {"save": tmp_path / "full"}),
    ):
        with pytest.raises(MaskError):
            prune(mask, tmp_path / "run", ASKED, plan=PLAN, show_progress=False, **options)
    assert not (tmp_path / "run").exists()


def test_a_mask_of_another_model_is_refused(tmp_path, located):
    with pytest.raises(MaskError, match="located in another model than testbed-clean"):
        prune(
            located.folder, str(tmp_path / "run"), replace(ASKED, model="testbed-clean"), plan=PLAN, show_progress=False
        )
    assert not (tmp_path / "run").exists()


def test_a_mask_of_nothing_is_refused_before_a_run(tmp_path):
    UnitMask({"a": torch.zeros(2, 3, dtype=torch.bool)}).save(tmp_path / "mask.safetensors")
    with pytest.raises(MaskError, match="selects no weight.*larger --k"):
        prune(tmp_path, tmp_path / "run", ASKED, plan=PLAN, show_progress=False)
    assert not (tmp_path / "run").exists()


def test_the_verb_names_its_report(tmp_path, located):
    arguments = [
        "prune",
        str(located.folder),
        "--out",
        str(tmp_path / "run"),
        "--seeds",
        "1",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.strip().splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert CliRunner().invoke(app, [*arguments, "--sweep", "much"]).exit_code == 2
    wrong = CliRunner().invoke(app, [*arguments[:3], str(tmp_path / "other"), "--sweep", "2"])
    assert wrong.exit_code == 2 and "shares k" in wrong.stderr and not (tmp_path / "other").exists()
