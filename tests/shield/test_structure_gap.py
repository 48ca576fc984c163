import pytest
import torch

from shield.detectors import NoiseGap, StructureGap
from shield.types import Step, Trace


def trace(gap):
    return Trace([Step(0, 999.0, 0.0, 1.0, "v_prediction", None, gap, torch.zeros_like(gap))])


def test_a_gap_that_is_flat_in_each_channel_scores_zero():
    gap = torch.tensor([5.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert StructureGap().score(trace(gap)).item() == pytest.approx(0.0, abs=1e-6)
    assert NoiseGap().score(trace(gap)).item() == pytest.approx(17**0.5)


def test_hand_arithmetic():
    """Channel (1, 5) has mean 3 and leaves (-2, 2); channel (0, 0) leaves nothing: sqrt((4 + 4) / 4)."""
    gap = torch.tensor([[1.0, 5.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    assert StructureGap().score(trace(gap)).item() == pytest.approx(2**0.5)


def test_noise_gap_splits_into_mean_and_structure():
    gap = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 1.0
    means = gap.mean(dim=(2, 3)).pow(2).mean(1)
    total = NoiseGap().score(trace(gap)).pow(2)
    assert torch.allclose(StructureGap().score(trace(gap)).pow(2) + means, total, rtol=1e-5)
