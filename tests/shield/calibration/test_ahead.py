"""What a service does at its start: thresholds for the sizes, strengths and steps that it will be asked for."""

from functools import partial

import diffusers
import pytest

from shield import Shield
from shield.errors import BadRequestError
from shield.runtime.policy import Policy
from tests.shield.calibration.test_on_call import RATE, one, ran
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_picture, tiny_variant

REPORT = Policy(on_flag="report")
img2img = partial(tiny_variant, diffusers.StableDiffusionImg2ImgPipeline, "text")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    return tmp_path


def test_sizes_are_calibrated_ahead_once_each_and_their_calls_cost_nothing(home):
    pipe = tiny_sd()
    safe = Shield(pipe, REPORT, fpr=RATE)
    made, spent = ran(pipe, lambda: safe.calibrate(sizes=[(64, 64), (128, 64)], steps=3))
    assert [t.setting.latent_shape for t in made] == [(4, 8, 8), (4, 16, 8)] and spent > 0
    assert len(list(home.rglob("*.json"))) == 2
    for again in (safe, Shield(pipe, REPORT, fpr=RATE)):  # this process, and one that starts later
        assert ran(pipe, lambda again=again: again.calibrate([(64, 64), (128, 64)], steps=3)) == (made, 0)
        for (height, width), threshold in zip([(64, 64), (128, 64)], made, strict=True):
            size = {"height": height, "width": width}
            usual = ran(pipe, lambda size=size: pipe("a cat", **one(size)()))[1]
            found, spent = ran(pipe, lambda again=again, size=size: again("a cat", **one(size)()).verdicts[0])
            assert spent == usual and found.scores[0].threshold == threshold.value


def test_strengths_are_those_of_image_to_image():
    pipe = img2img()
    safe = Shield(pipe, REPORT, fpr=RATE)
    made = safe.calibrate(sizes=[(64, 128)], strengths=[0.4, 0.8], steps=10)
    assert [t.setting.latent_shape for t in made] == [(4, 8, 16)] * 2
    assert made[0].setting.timesteps != made[1].setting.timesteps
    wide = tiny_picture().resize((128, 64))
    for strength, threshold in zip((0.4, 0.8), made, strict=True):
        call = {"image": wide, "strength": strength, "num_inference_steps": 10}
        (score,) = safe("a cat", **{**one({})(), **call}).verdicts[0].scores
        assert score.threshold == threshold.value


def test_other_arguments_of_the_calls_count():
    """A distilled model's guidance is an input of its denoiser."""
    pipe = tiny_flux()
    safe = Shield(pipe, REPORT, fpr=RATE)
    (made,) = safe.calibrate(guidance_scale=2.0, height=64, width=64, max_sequence_length=16, steps=3)
    assert made.setting.distilled_guidance == 2.0


def test_own_prompts_and_another_rate_are_what_the_verdict_stands_for():
    pipe = tiny_sd()
    safe = Shield(pipe, REPORT, fpr=RATE)
    usual = safe.calibrate(steps=3)
    mine = [f"{n} cat" for n in range(24)]
    (made,) = safe.calibrate(steps=3, prompts=mine, fpr=0.01)
    assert (made.negatives, made.fpr, made.provenance["wanted_fpr"]) == (24, 1 / 25, 0.01) and made not in usual
    low, high = made.provenance["rate_interval"]
    assert (1 - low) ** 24 == pytest.approx(0.975) and (1 - high) ** 24 == pytest.approx(0.025)
    verdict = safe("a cat", **one({})()).verdicts[0]
    assert (verdict.scores[0].threshold, verdict.scores[0].fpr) == (made.value, 1 / 25)
    assert verdict.to_dict()["scores"][0]["fpr"] == 1 / 25
    assert ran(pipe, lambda: safe.calibrate(steps=3, prompts=mine)) == ([made], 0)


def test_what_is_calibrated_ahead_holds_where_nothing_is_made_on_the_way():
    pipe = tiny_sd()
    Shield(pipe, REPORT, fpr=RATE).calibrate(steps=3)
    never = Shield(pipe, Policy(on_flag="report", on_unscored="pass"), fpr=RATE, calibrate="never", thresholds=[])
    assert not never("a cat", **one({})()).verdicts[0].scored
    never.calibrate(steps=3)
    assert never("a cat", **one({})()).verdicts[0].scored


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (tiny_sd, {"sizes": [512]}, "pairs .height, width.*512"),
        (tiny_sd, {"sizes": [(512, -8)]}, "pairs"),
        (tiny_sd, {"strengths": [0.5]}, "StableDiffusionPipeline takes no strength"),
        (img2img, {"height": 64}, "Img2ImgPipeline takes no height"),
        (tiny_sd, {"prompts": []}, "prompts is a list of texts"),
        (tiny_sd, {"prompts": "a cat"}, "prompts is a list of texts"),
        (tiny_sd, {"fpr": 2}, "between 0 and 1"),
    ],
    ids=["a number", "a negative size", "no strength", "no height", "no prompts", "one prompt", "no rate"],
)
def test_what_cannot_be_calibrated(make, given, said):
    with pytest.raises(BadRequestError, match=said):
        Shield(make(), REPORT).calibrate(**given)
