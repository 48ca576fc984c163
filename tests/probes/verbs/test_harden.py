"""`diffshield harden`: what it trains with, when it stops, what it attacks again, and what isn't there."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from probes.attacks import AdversarialEmbedding
from probes.audit.plan import Hardening
from probes.audit.request import AuditRequest
from probes.cli.main import app
from probes.drawing.draw import Sampling
from probes.errors import AuditError
from probes.hardeners import AdversarialFineTuning, CaptionFineTuning
from probes.hardeners.training import FineTuning, hardened
from probes.inputs.cohorts import Cohorts, Sizes, with_dev
from probes.inputs.prompts import PromptRecord
from probes.localizers import RandomMask
from probes.runs.folder import Run
from probes.types import Subject
from probes.verbs.harden import HARDEN, UNPRUNED, format_hardening, harden
from probes.verbs.harden import hardening as hardening_of
from shield.errors import BadRequestError
from shield.model.loading import load
from tests.probes.exact import bits
from tests.tiny import tiny_sd

pytestmark = pytest.mark.usefixtures("shipped")

SCHEDULE = FineTuning(epochs=2, updates=1, lr=1e-3, batch=2)
PLAN = replace(
    HARDEN,
    sizes=Sizes(members=2, nonmembers=1, scenes=1),
    picture_seeds=(1,),
    sampling=Sampling(2, 5.0, 8),
    attack=AdversarialEmbedding(steps=2, batch=1),
    hardening=Hardening(
        members=2,
        dev=1,
        keep=3,
        tries=2,
        schedule=SCHEDULE,
        hardener=AdversarialFineTuning(keep_batch=2, draws=1, attack=AdversarialEmbedding(steps=1, batch=1)),
    ),
)


def run(out, request=None, **options):
    return harden(
        out, request or AuditRequest(device="cpu"), **{"steps": (0, 2), "plan": PLAN, "show_progress": False, **options}
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, shipped):
    folder = tmp_path_factory.mktemp("harden")
    RandomMask(density=0.1).locate(Subject(tiny_sd(), "tiny")).mask.save(folder / "mask.safetensors")
    return run(folder / "run", mask=folder / "mask.safetensors", save=folder / "saved")


def test_every_stage_of_it(done):
    records = list(Run.open(done.folder).records())
    counts = {stage: sum(r["stage"] == stage for r in records) for stage in dict.fromkeys(r["stage"] for r in records)}
    # Two members and a dev work; non-member; scene. Members with two seeds for a surrogate.
    assert counts == {
        "work": 3,
        "before": 4,
        "twin": 2,
        "twin_attacked": 4,
        "surrogates": 6,
        "kept": 3,
        "hardened": 4,
        "hardened_attacked": 4,
        "hardened_nonmember_attacked": 2,
    }
    assert len({record["id"] for record in records}) == len(records)
    cost = {entry["stage"]: entry["evaluations"] for entry in done.summary["cost"]}
    # Rounds: two an epoch. Triggers of 3 works; an update has keep_batch pairs, which the original model
    # answers too, and a caption and a trigger a work.
    # The check after the first epoch ends it: a search of two steps, then two pictures of two steps and two halves.
    assert cost["harden"] == (3 + 2 * 2 * 2 + 2 * 3) + 2 + 2 * 2 * 2
    assert done.report.is_file() and any(
        "adversarial_fine_tuning: works 2, dev 1" in line for line in format_hardening(done.summary)
    )


def test_what_was_trained_is_said(done):
    """Untrained weights copy nothing, so the first check ends the training."""
    told = done.summary["hardening"]
    assert told["rounds"] == 2 and told["epochs"] == 1 and told["stopped_early"]
    assert told["checks"] == [{"epoch": 1, "caption": 0, "caption_judged": 1, "attack": 0, "attack_judged": 1}]
    assert told["utility"]["scenes"] == 1 and told["keep"] == 3 and len(told["works"]) == 2 and len(told["dev"]) == 1
    assert {(gap["stage"], gap["control"]) for gap in done.summary["gaps"]} == {
        ("hardened_attacked", "hardened_nonmember_attacked"),
        ("hardened_attacked", "twin_attacked"),
    }
    assert {row["stage"] for row in done.summary["drift"]} == {"hardened"}


def test_the_saved_checkpoint_is_the_hardened_model_and_the_subject_isnt(done):
    subject = Subject(load("testbed", device="cpu"), "testbed")
    saved = StableDiffusionPipeline.from_pretrained(done.folder.parent / "saved", safety_checker=None).unet
    assert bits(saved) != bits(subject.denoiser)
    with hardened(subject, done.folder / "harden" / "hardened.safetensors") as denoiser:
        assert bits(denoiser) == bits(saved)


def test_a_second_start_does_nothing_again(done):
    before = (done.folder / "records.jsonl").read_bytes()
    again = run(
        done.folder, mask=done.folder.parent / "mask.safetensors", save=done.folder.parent / "saved", resume=True
    )
    assert json.loads(json.dumps(again.summary)) == json.loads(json.dumps(done.summary))
    assert (done.folder / "records.jsonl").read_bytes() == before


def test_works_whose_surrogates_are_all_copies_borrow_one(tmp_path):
    """The references are the model's own pictures with the surrogates' seeds."""
    tiny_sd(seed=4).save_pretrained(tmp_path / "model")
    model, prompts = str(tmp_path / "model"), ["the cat", "red", "a thing"]
    pipe = load(model, device="cpu")
    (tmp_path / "benign.txt").write_text("one\ntwo\n")
    lines = ["caption,picture"]
    for n, prompt in enumerate(prompts):
        image = pipe(
            prompt, generator=torch.Generator().manual_seed(7000), num_inference_steps=2, guidance_scale=5.0
        ).images[0]
        (image if n else Image.effect_noise((64, 64), 90).convert("RGB")).save(tmp_path / f"{n}.png")
        lines.append(f"{prompt},{n}.png")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    plan = replace(PLAN, hardening=replace(PLAN.hardening, tries=1, hardener=CaptionFineTuning(1.0, 1, 1)))
    request = AuditRequest(model, tmp_path / "own.csv", benign=tmp_path / "benign.txt", device="cpu")
    done = run(tmp_path / "run", request, plan=plan)
    told = done.summary["hardening"]
    assert told["borrowed_surrogates"] == 2 and told["hardener"] == "caption_fine_tuning"
    assert told["dev"] == ["prompt-000001"] and told["works"] == ["prompt-000002", "prompt-000003"]
    assert done.summary["limits"][0] == UNPRUNED and any("clean twin" in limit for limit in done.summary["limits"])


def test_nothing_to_keep_is_said_not_guessed(tmp_path):
    tiny_sd(seed=4).save_pretrained(tmp_path / "model")
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "own.csv").write_text("caption,picture\nthe cat,a.png\n")
    done = run(tmp_path / "run", AuditRequest(str(tmp_path / "model"), tmp_path / "own.csv", device="cpu"))
    assert done.summary["hardening"] is None and any("--benign" in limit for limit in done.summary["limits"])


def test_dev_works_and_captions_to_keep_are_shared_out_by_hand():
    targets = tuple(PromptRecord(str(n), str(n)) for n in range(5))
    cohorts = with_dev(Cohorts(members=targets, scenes=targets))
    assert [[t.id for t in part] for part in (cohorts.locate, cohorts.members, cohorts.keep, cohorts.scenes)] == [
        ["0", "3"],
        ["1", "2", "4"],
        ["0", "2", "4"],
        ["1", "3"],
    ]
    assert with_dev(cohorts) == cohorts and with_dev(Cohorts(members=targets[:2])).locate == ()


@pytest.mark.parametrize("wrong", [{"method": "nonsense"}, {"lr": 0.0}])
def test_trainings_that_cant_be(wrong):
    options = {"members": 1, "dev": 0, "keep": 1, "epochs": 1, "updates": 1, "lr": 1e-5, "batch": 1, "rank": 0}
    with pytest.raises(BadRequestError):
        hardening_of(**{"method": "negative_guidance", **options, **wrong})
    assert hardening_of("negative_guidance", **options).hardener.name == "negative_guidance"


def test_mistakes_leave_no_run(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(AuditError, match="isn't empty"):
        run(tmp_path / "run", save=tmp_path / "full")
    with pytest.raises(BadRequestError, match="step counts"):
        run(tmp_path / "run", steps=())
    assert not (tmp_path / "run").exists()


def test_the_verb_names_its_report(tmp_path):
    options = (
        "--method negative_guidance --works 1 --dev 0 --keep 1 --epochs 1 --updates 1 --seeds 1 --steps 1 "
        "--at 0,1 --device cpu"
    )
    done = CliRunner().invoke(app, ["harden", "--out", str(tmp_path / "run"), *options.split()])
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.strip().splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert "negative_guidance: works 1" in done.stdout and "Hardened, against the same works" in done.stdout
