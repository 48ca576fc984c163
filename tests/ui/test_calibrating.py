"""A model that isn't calibrated: drawn with names alone, told so, calibrated by a button, canceled in between."""

from dataclasses import replace

import pytest
import torch

from shield.hooks.intercept import denoiser_of
from shield.protected.concepts import Concept, Concepts
from shield.runtime.settings import RecognizedModels
from ui import shown
from ui.calibrating import CPU_SECONDS, ROWS, calibrate, duration, is_calibrated
from ui.drawing import DrawingRequest, drawn
from ui.jobs import Stopped

ASKED = DrawingRequest("the cat", "tiny", steps=3, guidance_scale=3.0, seed=5)
CAT = Concepts([Concept("cat", substitute="a dog")])


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))


def without(pipe, asked: DrawingRequest = ASKED, concepts: Concepts | None = None):
    return drawn(pipe, asked, None, concepts, None, lambda told: None, calibrated=False)


def test_the_button_calibrates_for_what_is_asked_and_tells_how_far_it_is(pipe) -> None:
    models, told, before = RecognizedModels(), [], denoiser_of(pipe).state_dict()["conv_in.weight"].clone()
    assert not is_calibrated(pipe, models, ASKED, [])
    calibrate(pipe, ASKED, told.append)
    assert is_calibrated(pipe, models, ASKED, [])
    assert [one.done for one in told] == sorted(one.done for one in told) and told[-1].done == ROWS
    assert drawn(pipe, ASKED, None, None, None, lambda told: None).verdict.scores[0].threshold is not None
    assert not denoiser_of(pipe)._forward_pre_hooks
    assert torch.equal(denoiser_of(pipe).state_dict()["conv_in.weight"], before)


def test_a_calibration_that_is_canceled_keeps_nothing(pipe) -> None:
    def stop(told) -> None:
        if told.done > 20:
            raise Stopped

    with pytest.raises(Stopped):
        calibrate(pipe, ASKED, stop)
    assert not is_calibrated(pipe, RecognizedModels(), ASKED, []) and not denoiser_of(pipe)._forward_pre_hooks


def test_without_it_names_are_looked_for_and_it_is_said_that_memorization_wasnt_judged(pipe, tmp_path) -> None:
    plain = without(pipe)
    assert plain.same and not plain.calibrated and not plain.verdict.scores and plain.about()["calibrated"] is False
    assert "Memorization wasn't judged, because tiny isn't calibrated" in shown.sentence(plain)
    assert "ds-flagged" in shown.verdict_line(plain) and "up to a minute" in str(plain.calibration)
    named = without(pipe, concepts=CAT)
    assert named.verdict.status == "mitigated" and named.verdict.rewritten_prompt == "a dog"
    assert "Memorization wasn't judged" in shown.sentence(named)
    strict = without(pipe, replace(ASKED, policy="strict"))
    assert strict.verdict.status == "blocked"
    assert not list(tmp_path.rglob("*.json")), "nothing was calibrated on the way"


def test_the_time_is_said_in_minutes_and_ends_at_what_a_cpu_is_given(pipe) -> None:
    assert duration(pipe, 1.0, ROWS) == "up to a minute"
    assert duration(pipe, 1.5, 3) == f"about {ROWS * 0.5 / 60:.0f} minutes" == "about 2 minutes"
    assert duration(pipe, 600.0, 2) == f"about {CPU_SECONDS / 60:.0f} minutes"
