"""Records of pictures and scores: what they hold, what is left out, what a threshold does."""

import pytest
import torch
from PIL import Image

from probes.drawing.draw import Job, Sampling, drawn_by_pipeline, drawn_by_shield, jobs_for, record_stage
from probes.errors import PromptFileError
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord
from probes.inputs.truth import copy_judge
from probes.model.generate import first_steps, generate
from probes.runs.folder import Run
from probes.types import Subject
from shield import Shield
from shield.detectors import NoiseGap, StructureGap
from shield.hooks.recording import recorded
from shield.runtime.policy import Policy
from shield.thresholds import Setting, Threshold, options_of
from tests.probes.exact import bits
from tests.tiny import tiny_sd

SAMPLING = Sampling(steps=3, guidance_scale=5.0, batch_size=2)
TARGETS = [PromptRecord("a", "the cat"), PromptRecord("b", "red"), PromptRecord("c", "a thing")]


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


def start(folder):
    return Run.create(folder, {"test": 1}, kind="scan")


def test_the_same_prompt_and_seed_give_the_same_picture_in_any_batch(subject):
    together = generate(subject.pipe, ["the cat", "red"], [5, 6], steps=3, guidance_scale=5.0)
    alone = generate(subject.pipe, ["red"], [6], steps=3, guidance_scale=5.0)[0]
    other = generate(subject.pipe, ["red"], [7], steps=3, guidance_scale=5.0)[0]
    apart = torch.tensor(list(together[1].tobytes())).int() - torch.tensor(list(alone.tobytes())).int()
    assert apart.abs().max() <= 1 and other.tobytes() != alone.tobytes()
    with pytest.raises(ValueError, match="there are 2 and 1"):
        generate(subject.pipe, ["a", "b"], [1], steps=1, guidance_scale=5.0)


def test_embeddings_of_a_prompt_give_its_picture(subject):
    embeds = subject.pipe.encode_prompt(["red"], "cpu", 1, False)[0]
    one, two = (generate(subject.pipe, prompts, [6], steps=3, guidance_scale=5.0)[0] for prompts in (["red"], embeds))
    assert one.tobytes() == two.tobytes()


def test_only_the_first_steps_run(subject):
    steps = []
    first_steps(subject, ["the cat"], [1], steps=8, guidance_scale=5.0, stop=3, on_step=steps.append)
    assert steps == [0, 1, 2]


def test_scores_equal_a_recording_by_hand(subject, tmp_path):
    with start(tmp_path / "run") as run:
        draw = drawn_by_pipeline(subject, SAMPLING, [NoiseGap(), StructureGap()], pictures=False)
        record_stage(run, "scan", "tiny", jobs_for(TARGETS, [4]), draw, batch_size=2)
        records = list(run.records())
    for target, record in zip(TARGETS, records, strict=True):
        with recorded(subject.pipe, NoiseGap.needs, first_k=1, stop=True) as trace:
            subject.pipe(
                [target.prompt], generator=torch.Generator().manual_seed(4), num_inference_steps=3, guidance_scale=5.0
            )
        assert record["scores"]["noise_gap"] == pytest.approx(NoiseGap().score(trace).item(), rel=1e-4)
        assert record["picture"] is None and record["copied"] is None and record["flagged"] is None


def test_pictures_and_scores_come_from_one_pass(subject, tmp_path):
    sha = bits(subject.denoiser)
    with start(tmp_path / "run") as run:
        draw = drawn_by_pipeline(subject, SAMPLING, [NoiseGap()])
        record_stage(run, "before", "tiny", [Job(TARGETS[0], 4)], draw, batch_size=2)
        (record,) = run.records()
    with Image.open(tmp_path / "run" / record["picture"]) as picture:
        plain = generate(subject.pipe, ["the cat"], [4], steps=3, guidance_scale=5.0)[0]
        assert picture.tobytes() == plain.tobytes()
    assert record["scores"]["noise_gap"] > 0 and bits(subject.denoiser) == sha


def test_without_guidance_there_is_no_score_and_that_is_no_zero(subject, tmp_path):
    with start(tmp_path / "run") as run:
        draw = drawn_by_pipeline(subject, Sampling(2, 1.0, 2), [NoiseGap()])
        record_stage(run, "scan", "tiny", [Job(TARGETS[0], 4)], draw, batch_size=2)
        (record,) = run.records()
    assert record["scores"] == {"noise_gap": None} and record["flagged"] is None


def threshold(subject, value, timesteps=(999.0,)):
    setting = Setting(subject.sha256(), (4, 8, 8), timesteps, 3, 5.0, "DDIMScheduler", "v_prediction", "float32")
    return Threshold("structure_gap", options_of(StructureGap()), "tiny", setting, value, 0.05, 100, (value, value))


def test_a_threshold_flags_and_one_for_other_settings_doesnt(subject):
    job = [Job(TARGETS[0], 4)]
    for value, expected in ((0.0, True), (1e9, False)):
        (drawn,) = drawn_by_pipeline(
            subject, SAMPLING, [StructureGap()], pictures=False, thresholds=[threshold(subject, value)]
        )(job)
        assert drawn.more == {"flagged": expected}
    (drawn,) = drawn_by_pipeline(
        subject, SAMPLING, [StructureGap()], pictures=False, thresholds=[threshold(subject, 0.0, (500.0,))]
    )(job)
    assert drawn.more == {"flagged": None}


def test_what_the_shield_blocks_isnt_kept_and_isnt_a_copy(subject, tmp_path):
    shield = Shield(subject.pipe, Policy(on_flag="block"), thresholds=[threshold(subject, 0.0)])
    with start(tmp_path / "run") as run:
        record_stage(run, "shielded", "tiny", jobs_for(TARGETS, [4]), drawn_by_shield(shield, SAMPLING), batch_size=2)
        records = list(run.records())
    assert [r["action"] for r in records] == ["block"] * 3
    assert all(r["picture"] is None and r["copied"] is False and r["flagged"] and r["reason"] for r in records)
    assert not (tmp_path / "run" / "pictures").exists()


def test_what_the_shield_passes_is_the_bare_picture(subject):
    shield = Shield(subject.pipe, thresholds=[threshold(subject, 1e9)])
    (drawn,) = drawn_by_shield(shield, SAMPLING)([Job(TARGETS[0], 4)])
    assert drawn.more == {"action": "pass", "reason": None, "flagged": False}
    assert drawn.picture.tobytes() == generate(subject.pipe, ["the cat"], [4], steps=3, guidance_scale=5.0)[0].tobytes()


def stopping(draw, batches):
    """The draw, stopped by Ctrl-C after some batches."""

    def work(jobs):
        if batches.pop() == 0:
            raise KeyboardInterrupt
        return draw(jobs)

    return work


def test_resuming_adds_what_is_missing_and_nothing_twice(subject, tmp_path):
    draw = drawn_by_pipeline(subject, SAMPLING, [NoiseGap()], pictures=False)
    jobs = jobs_for(TARGETS, [1, 2, 3])
    with start(tmp_path / "whole") as run:
        record_stage(run, "scan", "tiny", jobs, draw, batch_size=2)
        whole = list(run.records())
    with pytest.raises(KeyboardInterrupt), start(tmp_path / "run") as run:
        record_stage(run, "scan", "tiny", jobs, stopping(draw, [0, 1, 2]), batch_size=2)
    with Run.resume(tmp_path / "run", {"test": 1}) as run:
        assert len(list(run.records())) == 4
        record_stage(run, "scan", "tiny", jobs, draw, batch_size=2)
        assert list(run.records()) == whole and len(whole) == 9
    with Run.resume(tmp_path / "run", {"test": 1}) as run:
        record_stage(run, "scan", "tiny", jobs, stopping(draw, [0]), batch_size=2)  # a single batch would stop it


def test_each_picture_meets_its_own_reference(subject, tmp_path):
    """ "own" is compared with the picture it draws, "other" with one of the pictures the judge was calibrated on."""
    unlike = []
    for n in range(4):
        picture = Image.effect_mandelbrot((64, 64), (-2 + n / 4, -1, 1, 1), 20 + 30 * n).convert("RGB")
        picture.rotate(60 * n, fillcolor=(40 * n, 200 - 30 * n, 90)).save(tmp_path / f"{n}.png")
        unlike.append(tmp_path / f"{n}.png")
    own = tmp_path / "own.png"
    generate(subject.pipe, ["the cat"], [4], steps=3, guidance_scale=5.0)[0].save(own)
    targets = [
        PromptRecord("other", "red", reference=unlike[0]),
        PromptRecord("none", "a thing"),
        PromptRecord("own", "the cat", reference=own),
    ]
    with start(tmp_path / "run") as run:
        record_stage(
            run,
            "before",
            "tiny",
            jobs_for(targets, [4]),
            drawn_by_pipeline(subject, SAMPLING),
            batch_size=3,
            judge=copy_judge([Image.open(file).convert("RGB") for file in unlike], "unlike pictures"),
        )
        found = {r["item"]: r for r in run.records()}
    assert {name: r["copied"] for name, r in found.items()} == {"other": False, "none": None, "own": True}
    assert found["own"]["scores"]["tiled_l2"] < 0.02 < found["other"]["scores"]["tiled_l2"]
    assert found["none"]["unjudged"] == "there is no reference picture" and found["none"]["scores"] == {}


def test_a_broken_reference_is_one_sentence(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(PromptFileError, match=r"broken.png can't be read"):
        reference_picture(tmp_path / "broken.png")
    with pytest.raises(ValueError, match="nothing to scan"):
        drawn_by_pipeline(None, SAMPLING, [], pictures=False)
