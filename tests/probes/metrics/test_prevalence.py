"""Prevalence from an imperfect detector: arithmetic by hand, coverage by simulation, and what isn't known."""

import numpy as np
import pytest

from probes.metrics.prevalence import Rate, prevalence


def test_the_correction_by_hand():
    """30 of 200 flagged, 1 % false alarms, 8 of 10 memorized prompts found: (.15 - .01) / (.8 - .01)."""
    alarms = Rate.of_threshold(0.01, 199)
    assert alarms.value == pytest.approx(2 / 200) and (alarms.a, alarms.b) == pytest.approx((2, 198))
    found = prevalence(Rate.counted(0.15, 200), alarms, Rate.counted(0.8, 10))
    assert found["value"] == pytest.approx(0.14 / 0.79)
    assert found["low"] < found["value"] < found["high"]
    surer = prevalence(Rate.counted(0.15, 200), alarms, Rate.counted(0.8, 1000))
    assert surer["high"] - surer["low"] < found["high"] - found["low"]


def test_several_noises_of_a_prompt_widen_the_rate():
    alone, repeated = Rate.of_threshold(0.05, 800), Rate.of_threshold(0.05, 800, prompts=100)
    assert alone.value == repeated.value
    assert repeated.figures()["high"] > alone.figures()["high"]


def test_the_interval_holds_the_truth():
    """Of 300 simulated scans, prompts and detectors alike drawn anew, with a truth of 10 %."""
    rng, truth, held = np.random.default_rng(3), 0.1, 0
    for _ in range(300):
        alarm = rng.beta(2, 198)  # of a threshold from 199 benign prompts
        known = rng.binomial(60, 0.7)
        flagged = rng.binomial(500, truth * 0.7 + (1 - truth) * alarm)
        found = prevalence(Rate.counted(flagged / 500, 500), Rate.of_threshold(0.01, 199), Rate.counted(known / 60, 60))
        held += found["low"] <= truth <= found["high"]
    assert 0.92 <= held / 300 <= 0.99


def test_what_is_not_known_is_not_said():
    flagged, alarms = Rate.counted(0.15, 200), Rate.of_threshold(0.01, 199)
    unknown = prevalence(flagged, alarms)
    assert unknown["value"] is None and unknown["high"] == 1.0 and 0.05 < unknown["low"] < 0.14
    blind = prevalence(flagged, alarms, Rate.counted(0.01, 100))
    assert (blind["value"], blind["low"], blind["high"]) == (None, 0.0, 1.0)
