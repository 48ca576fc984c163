"""Stability: sizes and z-scores by hand, a reference from negatives, and runs that are too short."""

import pytest
import torch

from shield import Shield
from shield.detectors import NoiseGap, Stability
from shield.errors import MissingSignalError
from shield.runtime.policy import Policy
from shield.runtime.settings import setting_of
from shield.thresholds import calibrated, found, load_thresholds, save_threshold
from shield.types import Step, Trace
from tests.shield.calls import PROMPTS, options, thresholds


def trace(latents, clean):
    """One pair of values (B, 2) a step."""

    def pixels(values):
        return torch.tensor(values).view(-1, 1, 1, 2)

    return Trace(
        [
            Step(k, 999.0 - k, 0.6, 0.8, "sample", pixels(x), pixels(c), None)
            for k, (x, c) in enumerate(zip(latents, clean, strict=True))
        ]
    )


LATENTS = [[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 5.0]]]
CLEAN = [[[1.0, 1.0]], [[2.0, 2.0]], [[1.0, 7.0]]]


def test_sizes_by_hand():
    """Updates (3, 4) and (0, 1): sqrt(12.5) is the largest. Clean latents have sizes 1, 2 and 5."""
    assert Stability().score(trace(LATENTS, CLEAN)).item() == pytest.approx(12.5**0.5)
    reference = ((12.5**0.5, 1.0), (0.5**0.5, 1.0))
    detector = Stability(updates=reference, clean=((1.0, 1.0), (3.0, 0.5), (5.0, 1.0)))
    assert detector.score(trace(LATENTS, CLEAN)).item() == pytest.approx(2.0)  # |2 - 3| / 0.5, below as well as above


def test_a_reference_from_negatives():
    draw = torch.Generator().manual_seed(0)
    latents, clean = (torch.randn(3, 50, 2, generator=draw).tolist() for _ in range(2))
    negatives = trace(latents, clean)
    fitted = Stability().fitted(negatives)
    sizes = torch.tensor(latents).diff(dim=0).pow(2).mean(2).sqrt().double()
    want = [(float(row.mean()), float(row.std())) for row in sizes]
    assert [tuple(pair) for pair in fitted.updates] == [pytest.approx(pair, rel=1e-5) for pair in want]
    assert len(fitted.clean) == 3 and float(fitted.score(negatives).mean()) < 3
    far = trace([[[0.0, 0.0]], [[30.0, 0.0]], [[0.0, 0.0]]], [[[1.0, 1.0]]] * 3)
    assert fitted.score(far).item() > 10
    with pytest.raises(MissingSignalError, match="two images"):
        Stability().fitted(far)
    with pytest.raises(MissingSignalError, match="for 2 sizes"):
        Stability(first_k=2, updates=fitted.updates).score(negatives)
    with pytest.raises(MissingSignalError, match="two or more"):
        Stability(first_k=1).score(negatives)


def test_a_reference_comes_back_from_a_threshold_file(pipe, tmp_path):
    detector, setting = Stability(updates=((1.0, 2.0), (3.0, 4.0))), setting_of(pipe, 3, 5.0)
    save_threshold(calibrated(detector, range(200), 0.01, setting, "tiny"), tmp_path)
    assert found(load_thresholds(tmp_path), detector, setting).value == 198


def test_it_flags_in_the_shield_at_its_last_step(pipe):
    policy = Policy(detectors=(Stability(),), on_flag="report")
    verdicts = Shield(pipe, policy, thresholds=thresholds(pipe, 0.0, policy.detectors))(PROMPTS, **options(4)).verdicts
    assert [v.scores[0].step for v in verdicts] == [2] * 4 and all(v.reasons for v in verdicts)


@pytest.mark.parametrize("detector", [Stability(first_k=5), NoiseGap(first_k=5)])
def test_a_run_too_short_to_score_is_never_a_pass(pipe, detector):
    made = thresholds(pipe, 1e9, (NoiseGap(),))
    made = [*made, calibrated(detector, range(200), 0.01, setting_of(pipe, 5, 5.0), "tiny")]
    with pytest.raises(MissingSignalError, match="reads 5 steps and this run has 3"):
        Shield(pipe, Policy(detectors=(detector,)), thresholds=made)(PROMPTS, **options(4))
    blocked = Shield(pipe, Policy(detectors=(NoiseGap(), detector), on_unscored="block"), thresholds=made)
    assert [v.status for v in blocked(PROMPTS, **options(4)).verdicts] == ["blocked"] * 4
    passed = Shield(pipe, Policy(detectors=(detector,), on_unscored="pass"), thresholds=made)
    assert [(v.status, v.scored) for v in passed(PROMPTS, **options(4)).verdicts] == [("passed", False)] * 4
