"""`diffshield calibrate`: what it needs is said first, it goes on where it stopped, and its folder is found."""

import json
import re
import shlex

import pytest
from diffusers import AutoPipelineForImage2Image
from PIL import Image
from typer.testing import CliRunner

from probes.cli.main import app
from probes.verbs.calibrate import CalibratedCalls, benign_of, calibrate_detectors
from shield import Shield
from shield.benign.prompts import benign_prompts
from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError, GalleryError, NotCalibratedError
from shield.model.loading import load
from shield.runtime.policy import Policy
from tests.tiny import tiny_sd

RAISES = Policy(detectors=(StructureGap(),), on_unscored="raise", registry=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "own model"
    tiny_sd().save_pretrained(folder)
    return folder


def made(model, out, **options):
    usual = {"fpr": 0.2, "device": "cpu", "settings": CalibratedCalls(steps=2), "batch_size": 3}
    return calibrate_detectors(str(model), ["structure_gap"], out, **{**usual, **options})


def test_too_few_prompts_are_said_before_the_model_is_loaded(tmp_path):
    (tmp_path / "p.csv").write_text("name,text\na,one\nb,two\nc,three\n")
    for options, need in (
        ({}, "99 scores .* gives 3 .*--seeds 33, or --fpr 0.25"),
        ({"limit": 2}, "gives 2 .*--seeds 50"),
    ):
        with pytest.raises(BadRequestError, match=need):
            made("no/model", tmp_path, prompts=tmp_path / "p.csv", fpr=0.01, column="text", **options)
    with pytest.raises(BadRequestError, match="needs at least 9999 scores"):
        made("no/model", tmp_path, fpr=0.0001)
    assert benign_of(tmp_path / "p.csv", 3, (1, 2), "name").prompts == ("a", "b", "c")


def test_benign_prompts_at_each_size_said_before(model, tmp_path):
    said = []
    settings = CalibratedCalls(sizes=((64, 64), (64, 128)), steps=2)
    found = list(made(model, tmp_path, settings=settings, say=said.append).values())
    assert found[0].setting.latent_shape[2] * 2 == found[1].setting.latent_shape[2]
    assert {one.negatives for one in found} == {9} and found[0].provenance[
        "negatives"
    ] == "the benign prompts that ship"
    assert said == [
        "9 prompts (the benign prompts that ship) with one of eight noises each at 2 setting(s): about 18 "
        "scores; a false-alarm rate of 0.2 needs 4 at least."
    ]


def test_a_stopped_calibration_goes_on(model, tmp_path):
    whole = made(model, tmp_path / "whole", seeds=(1, 2))

    def stop(done, total):
        assert total == 18
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(model, tmp_path / "own", seeds=(1, 2), progress=stop)
    (log,) = (tmp_path / "own").glob("*.scores.jsonl")
    assert len(log.read_text().splitlines()) == 6
    with open(log, "a") as stream:
        stream.write('["torn')
    first = made(model, tmp_path / "own", seeds=(1, 2), resume=True)
    assert not log.exists()
    (one,), (other,) = whole.values(), first.values()
    assert one.value == pytest.approx(other.value, rel=1e-4) and other.negatives == 18
    assert one.provenance["evaluations"] - other.provenance["evaluations"] == 3
    (path,) = made(model, tmp_path / "own", seeds=(1, 2), resume=True)
    assert path in first and json.loads(path.read_text())["provenance"]["seconds"] == other.provenance["seconds"]


def test_the_sentence_of_an_uncalibrated_call_is_the_whole_command(model, tmp_path):
    pipe = load(str(model), device="cpu")
    with pytest.raises(NotCalibratedError, match="never calibrated") as error:
        Shield(pipe, RAISES, calibrate="never")("a cat")
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 64, "width": 128}
    (other,) = made(model, tmp_path / "other").values()
    with pytest.raises(NotCalibratedError) as error:
        Shield(pipe, RAISES, thresholds=[other])("a cat", **call)
    (command,) = re.findall("`diffshield (.*)`", str(error.value))
    assert command == (
        f"calibrate --model {shlex.quote(str(model))} --detectors structure_gap --sizes 64x128 --steps 3 --guidance 4 "
        "--dtype float32"
    )
    more = ["--out", str(tmp_path / "made"), "--fpr", "0.2", "--batch", "5", "--device", "cpu"]
    done = CliRunner().invoke(app, [*shlex.split(command), *more])
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"--thresholds {tmp_path / 'made'}" in done.stdout and "9 prompts" in done.stderr
    (score,) = Shield(pipe, RAISES, thresholds=tmp_path / "made")("a cat", **call).verdicts[0].scores
    assert score.threshold is not None


def test_image_to_image_with_a_picture(model, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    settings = CalibratedCalls(
        strengths=(0.5,), image=tmp_path / "red.png", steps=4, guidance_scale=5.0, sizes=((64, 64),)
    )
    made(model, tmp_path / "made", settings=settings)
    pipe = AutoPipelineForImage2Image.from_pipe(load(str(model), device="cpu"))
    shield = Shield(pipe, RAISES, thresholds=tmp_path / "made")
    call = {"image": Image.new("RGB", (64, 64), "blue"), "num_inference_steps": 4, "guidance_scale": 5.0}
    assert shield("a cat", strength=0.5, **call).verdicts[0].scores[0].threshold is not None
    with pytest.raises(NotCalibratedError, match="--strength 0.9 --image PICTURE"):
        shield("a cat", strength=0.9, **call)
    with pytest.raises(GalleryError, match="can't be read"):
        made(model, tmp_path, settings=CalibratedCalls(image=tmp_path / "none.png", steps=2))


def test_noise_gap_and_benign_by_name(model, tmp_path):
    found = calibrate_detectors(
        str(model),
        ["noise_gap"],
        tmp_path,
        fpr=0.5,
        limit=2,
        negatives=["benign"],
        settings=CalibratedCalls(steps=2),
        device="cpu",
    )
    assert [one.detector for one in found.values()] == [NoiseGap.name]
    assert benign_of(None, 1, None, limit=2).prompts == tuple(benign_prompts(n=2))


def test_points_of_the_schedule_share_one_rate(model, tmp_path):
    found = made(model, tmp_path / "made", points=(0.0, 0.5), fpr=0.4)
    assert [one.options["point"] for one in found.values()] == [0.0, 0.5]
    policy = Policy(detectors=(StructureGap(),), points=(0.0, 0.5), on_unscored="raise", registry=False)
    shield = Shield(load(str(model), device="cpu"), policy, thresholds=tmp_path / "made")
    scores = shield("a cat", num_inference_steps=2).verdicts[0].scores
    assert scores and all(score.threshold is not None for score in scores)
    with pytest.raises(NotCalibratedError, match="--steps 4 .*--points 0,0.5"):
        shield("a cat", num_inference_steps=4)


def test_points_that_fall_on_one_step_are_told(model, tmp_path):
    said: list[str] = []
    made(model, tmp_path / "made", points=(0.0, 0.18), fpr=0.4, say=said.append)
    assert "Of 2 steps the points 0 and 0.18 fall on step 1, which is one look." in said
