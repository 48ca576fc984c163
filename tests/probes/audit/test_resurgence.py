"""Ordinary fine-tuning after pruning and hardening, and what comes back then, on the tiny testbed."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from probes.attacks import AdversarialEmbedding
from probes.audit.plan import Hardening
from probes.audit.request import AuditRequest
from probes.audit.resurgence import Resurgence, format_resurgence
from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.errors import AuditError
from probes.hardeners import CaptionFineTuning
from probes.hardeners.training import FineTuning
from probes.inputs.cohorts import Sizes
from probes.localizers import RandomMask
from probes.pruners import pruned
from probes.runs.folder import Run
from probes.runs.tensors import read_tensors
from probes.types import Subject, UnitMask
from probes.verbs.harden import HARDEN, harden
from probes.verbs.prune import PRUNE, prune
from shield.errors import BadRequestError
from shield.model.loading import load
from tests.probes.exact import bits
from tests.tiny import tiny_sd

pytestmark = pytest.mark.usefixtures("shipped")

SMALL = {
    "sizes": Sizes(members=2, nonmembers=1, scenes=1),
    "picture_seeds": (1,),
    "sampling": Sampling(2, 5.0, 8),
    "attack": AdversarialEmbedding(batch=1),
}
THEN = Resurgence(updates=(0, 2), attack_steps=1, lr=1e-2, batch=2, limit=3)


@pytest.fixture(scope="module")
def mask(tmp_path_factory, shipped):
    file = tmp_path_factory.mktemp("mask") / "mask.safetensors"
    RandomMask(density=0.1).locate(Subject(tiny_sd(), "tiny")).mask.save(file)
    return file


def stages_of(done):
    records = list(Run.open(done.folder).records())
    return {stage: sum(r["stage"] == stage for r in records) for stage in dict.fromkeys(r["stage"] for r in records)}


def test_after_pruning(tmp_path, mask):
    """What is trained starts from the pruned weights, moves all of them, and leaves the model as it was."""
    pipe = load("testbed", device="cpu")
    request, before = AuditRequest(pipe=pipe, device="cpu"), bits(pipe.unet)
    done = prune(mask, tmp_path / "run", request, plan=replace(PRUNE, **SMALL), then=THEN, show_progress=False)
    assert bits(pipe.unet) == before
    (_, start), (_, end) = (read_tensors(tmp_path / "run" / "resurgence" / f"{n}.safetensors") for n in (0, 2))
    with pruned(pipe.unet, UnitMask.load(mask)):
        assert all(torch.equal(value, start[name]) for name, value in pipe.unet.state_dict().items())
    assert not any(torch.equal(end[name], start[name]) for name in start if name.endswith("weight"))
    counts = stages_of(done)
    assert counts["then_kept"] == 2  # scenes; the third caption is a dev non-member's, which has its own picture
    assert counts["resurged-0"] == counts["resurged-2"] == 3  # two members, a non-member
    assert counts["resurged_attacked-2"] == 2 and counts["resurged_nonmember_attacked-2"] == 1
    rows = done.summary["resurgence"]
    assert [row["updates"] for row in rows] == [0, 2]
    assert [row[key]["n"] for row in rows for key in ("caption", "caption_nonmembers", "attacked")] == [2, 1, 2] * 2
    assert "What comes back by itself" in done.report.read_text(encoding="utf-8")
    assert len(format_resurgence(rows)) == 2


def test_after_hardening_with_pictures_of_ones_own(tmp_path, mask):
    """A file's own pictures are trained on as they are; of a caption without one the hardened model draws it."""
    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 30).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "benign.csv").write_text("prompt,picture\na red thing,a.png\na blue thing,\n", encoding="utf-8")
    hardening = Hardening(
        members=2, dev=0, keep=2, tries=1, hardener=CaptionFineTuning(keep_batch=1, draws=1), schedule=FineTuning(1, 1)
    )
    plan = replace(HARDEN, **SMALL, hardening=hardening)
    then = replace(THEN, source=tmp_path / "benign.csv", attack_steps=0)
    done = harden(
        tmp_path / "run", AuditRequest(device="cpu"), mask=mask, steps=(0, 1), plan=plan, then=then, show_progress=False
    )
    assert stages_of(done)["then_kept"] == 1
    assert [row["caption"]["n"] for row in done.summary["resurgence"]] == [2, 2]
    assert all(row["attacked"]["n"] == 0 and row["gap"]["gap"] is None for row in done.summary["resurgence"])


def test_what_can_not_be_trained_on(tmp_path, mask):
    with pytest.raises(BadRequestError, match="0 or more updates"):
        Resurgence(updates=())
    plan = replace(PRUNE, **SMALL)
    work = AuditRequest(device="cpu").cohorts(plan).members[0].prompt
    (tmp_path / "works.txt").write_text(f"{work}\n", encoding="utf-8")
    with pytest.raises(AuditError, match="captions of no judged work"):  # before anything is drawn
        prune(
            mask,
            tmp_path / "run",
            AuditRequest(device="cpu"),
            plan=plan,
            then=replace(THEN, source=tmp_path / "works.txt"),
            show_progress=False,
        )
    assert not list(Run.open(tmp_path / "run").records())


def test_the_verb(tmp_path, mask, monkeypatch, weights):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(weights))
    options = ["--then-train", "kept", "--then-updates", "0,1", "--then-attack", "0", "--steps", "1", "--seeds", "1"]
    done = CliRunner().invoke(
        app, ["prune", str(mask), "--out", str(tmp_path / "run"), *options, "--limit", "1", "--device", "cpu"]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "After 1 updates on ordinary captions" in done.output
