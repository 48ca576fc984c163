"""The first call on anybody's checkpoint: calibrated on the way, once, and the picture is the bare pipeline's."""

import logging

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from shield import Shield
from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError, NotCalibratedError
from shield.hooks.intercept import denoiser_of
from shield.runtime.policy import Policy
from tests.shield.calls import noises, state, thresholds
from tests.shield.test_every_family import WAYS
from tests.tiny_families import tiny_sdxl

RATE = 0.2  # nine prompts
CALLS = {way: (WAYS[way][0], WAYS[way][1]) for way in ("sd", "sdxl", "sd3", "flux", "flux_true", "sd_img2img")}
CALLS |= {f"turbo, {n} steps": (tiny_sdxl, {"guidance_scale": 0.0, "num_inference_steps": n}) for n in (1, 4)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    return tmp_path


def one(more):
    """A call for one prompt, the noise of which is drawn from a generator of its own."""
    single = {name: value[:1] if isinstance(value, list) else value for name, value in more.items()}
    return lambda: {"num_inference_steps": 3, "output_type": "np", **single, "generator": noises(1)}


def ran(pipe, call):
    """(what the call returns, how often the denoiser ran)."""
    times = []
    hook = denoiser_of(pipe).register_forward_hook(lambda *_: times.append(1))
    try:
        return call(), len(times)
    finally:
        hook.remove()


@pytest.mark.parametrize("way", CALLS)
def test_the_first_call_is_judged_and_the_next_ones_cost_nothing(way, home):
    make, more = CALLS[way]
    pipe, call = make(), one(more)
    bare, usual = ran(pipe, lambda: pipe("a cat", **call()).images)
    known, given = state(pipe), call()
    safe = Shield(pipe, Policy(on_flag="report"), fpr=RATE)
    first, spent = ran(pipe, lambda: safe("a cat", **given))
    assert first.verdicts[0].scored == ("image" not in more)  # a picture that no gallery looks at
    assert first.verdicts[0].scores[0].flagged is not None
    assert spent > usual and np.array_equal(first.images, bare) and state(pipe) == known
    expected = call()
    pipe("a cat", **expected)
    assert torch.equal(given["generator"][0].get_state(), expected["generator"][0].get_state())
    extra = first.verdicts[0].extra_calls
    assert extra == (way == "flux" or "turbo" in way)
    for again in (safe, Shield(pipe, Policy(on_flag="report"), fpr=RATE)):  # the second one reads what is kept
        later, spent = ran(pipe, lambda again=again: again("a cat", **call()))
        assert spent == usual + extra and np.array_equal(later.images, bare)
        assert later.verdicts[0].scores[0].threshold == first.verdicts[0].scores[0].threshold


def test_what_was_given_holds_before_anything_is_made(pipe, home):
    given = thresholds(pipe, 1e9)
    verdict = Shield(pipe, thresholds=given)("a cat", **one({})()).verdicts[0]
    assert verdict.scores[0].threshold == 1e9 and not list(home.rglob("*.json"))
    verdict = Shield(pipe, fpr=RATE, thresholds=given, calibrate="auto")(
        "a cat", height=128, width=64, **one({})()
    ).verdicts[0]
    assert verdict.scored and verdict.scores[0].threshold < 1e9 and len(list(home.rglob("*.json"))) == 1


def test_thresholds_that_are_given_are_all_there_are(pipe, home):
    """Those of one prediction type don't judge a run of another, and none is made in their place."""
    given = Shield(pipe, thresholds=thresholds(pipe))
    assert given.calibration == "never" and Shield(pipe).calibration == "auto"
    kind = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[pipe.scheduler.config.prediction_type]
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    with pytest.raises(NotCalibratedError):
        given("a cat", **one({})())
    assert not list(home.rglob("*"))


def test_of_several_that_were_made_and_hold_the_call_takes_one(pipe, home):
    """Two thresholds that were made may both hold for a third setting, whose timestep lies between theirs."""
    safe = Shield(pipe, Policy(on_flag="report"), fpr=RATE)
    for shift in (0, 2, 1):
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="leading", steps_offset=100 + shift
        )
        assert safe("a cat", **one({})()).verdicts[0].scored
    assert len(list(home.rglob("*.json"))) == 2


def test_without_enough_time_the_verdict_stands_for_a_larger_rate(pipe, home, caplog):
    with caplog.at_level(logging.INFO, "shield"):
        Shield(pipe, thresholds=[], calibrate="auto", seconds=1e-9)("a cat", **one({})())
    assert "at most 4.76% of prompts like these are flagged instead of 1.00%" in caplog.text
    assert str(home) in caplog.text and "on 20 prompts" in caplog.text


def test_never_means_today_s_refusal(pipe, home):
    with pytest.raises(NotCalibratedError, match="run `diffshield calibrate --model YOUR_MODEL --detectors"):
        Shield(pipe, calibrate="never", thresholds=[])
    wrong = Shield(pipe, calibrate="never", thresholds=thresholds(pipe))
    with pytest.raises(NotCalibratedError, match="latents of"):
        wrong("a cat", height=128, width=64, **one({})())
    assert not list(home.rglob("*"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"calibrate": "always"}, "'auto' or 'never'"), ({"fpr": 1}, "between 0 and 1"), ({"seconds": 0}, "above 0")],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_options_of_calibration_are_checked(pipe, wrong, said):
    with pytest.raises(BadRequestError, match=said):
        Shield(pipe, **wrong)


def test_a_policy_that_passes_what_it_cannot_judge_calibrates_too(pipe, home):
    verdict = Shield(pipe, "monitor", fpr=RATE, thresholds=[], calibrate="auto")("a cat", **one({})()).verdicts[0]
    assert verdict.scored and verdict.scores[0].flagged is not None


def test_detectors_of_more_steps_than_the_call_has_are_left_to_the_call(pipe, home):
    long = Policy(detectors=(NoiseGap(), StructureGap(first_k=9)), on_unscored="pass")
    verdict = Shield(pipe, long, fpr=RATE)("a cat", **one({})()).verdicts[0]
    assert {s.detector: s.threshold is None for s in verdict.scores} == {"noise_gap": False, "structure_gap": True}
