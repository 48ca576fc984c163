import pytest
import torch

from shield.detectors import NoiseGap
from shield.types import Step, Trace


def step(cond, uncond, signal=0.0, noise=1.0, index=0):
    shape = (-1, 1, 1, 2)
    cond, uncond = (torch.tensor(t).view(shape) for t in (cond, uncond))
    return Step(index, 999.0 - index, signal, noise, "v_prediction", None, cond, uncond)


def test_a_3_4_5_triangle():
    """At zero signal the clean-latent gap is minus the v gap: ||(3, 4)|| = 5, over sqrt(2) numbers."""
    score = NoiseGap().score(Trace([step([3.0, 4.0], [0.0, 0.0])]))
    assert score.item() == pytest.approx(5.0 / 2**0.5)


def test_norms_are_per_image_not_per_batch():
    score = NoiseGap().score(Trace([step([3.0, 4.0, 0.0, 0.0, 6.0, 8.0], [0.0] * 6)]))
    assert score.tolist() == pytest.approx([5 / 2**0.5, 0.0, 10 / 2**0.5])


def test_mean_over_the_first_steps_only():
    trace = Trace([step([3.0, 4.0], [0.0, 0.0]), step([6.0, 8.0], [0.0, 0.0], index=1), step([9e9, 0], [0.0, 0.0])])
    assert NoiseGap(first_k=2).score(trace).item() == pytest.approx(7.5 / 2**0.5)


def test_the_epsilon_gap_is_zero_at_zero_signal():
    trace = Trace([step([3.0, 4.0], [0.0, 0.0])])
    assert NoiseGap(quantity="epsilon").score(trace).item() == 0.0
    assert NoiseGap(quantity="v").score(trace).item() == pytest.approx(5.0 / 2**0.5)


def test_size_of_the_latent_does_not_matter():
    small, large = torch.full((1, 4, 8, 8), 2.0), torch.full((1, 4, 16, 16), 2.0)
    steps = [Step(0, 999.0, 0.0, 1.0, "v_prediction", None, t, 0 * t) for t in (small, large)]
    scores = [NoiseGap().score(Trace([one])) for one in steps]
    assert scores[0] == scores[1] == 2.0
