import math

import pytest
import torch

from shield.detectors import NoiseGap, StructureGap
from shield.types import Step, Trace


def trace(gap):
    return Trace([Step(0, 999.0, 0.0, 1.0, "v_prediction", None, gap, torch.zeros_like(gap))])


def waves(*cycles, side=8):
    """One image, one channel: a sum of cosines of amplitude 1 along the width, at these cycles per picture."""
    x = torch.arange(side) / side
    row = sum(torch.cos(2 * math.pi * c * x) for c in cycles)
    return row.expand(1, 1, side, side).clone()


def test_a_gap_that_is_flat_in_each_channel_scores_zero():
    gap = torch.tensor([5.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert StructureGap().score(trace(gap)).item() == pytest.approx(0.0, abs=1e-6)
    assert NoiseGap().score(trace(gap)).item() == pytest.approx(17**0.5)


def test_hand_arithmetic():
    """A cosine has a mean square of 1/2; of those at 1, 2 and 3 cycles the last two stay."""
    assert StructureGap().score(trace(waves(1))).item() == pytest.approx(0.0, abs=1e-6)
    assert StructureGap().score(trace(3 * waves(2))).item() == pytest.approx(3 / 2**0.5)
    assert StructureGap().score(trace(waves(1, 2, 3))).item() == pytest.approx(1.0)
    assert StructureGap(cycles=1).score(trace(waves(1, 2, 3))).item() == pytest.approx(1.5**0.5)


def test_a_diagonal_counts_by_the_length_of_its_frequency():
    """One cycle down and one across are sqrt(2) along the diagonal."""
    diagonal = waves(1) * waves(1).mT
    assert StructureGap(cycles=1.4).score(trace(diagonal)).item() == pytest.approx(0.5)
    assert StructureGap(cycles=1.5).score(trace(diagonal)).item() == pytest.approx(0.0, abs=1e-6)


def test_noise_gap_splits_into_mean_and_structure():
    gap = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(0)) + 1.0
    means = gap.mean(dim=(2, 3)).pow(2).mean(1)
    total = NoiseGap().score(trace(gap)).pow(2)
    assert torch.allclose(StructureGap(cycles=0.5).score(trace(gap)).pow(2) + means, total, rtol=1e-5)


def test_packed_latents_lose_their_mean_alone():
    """Channel (1, 5) has mean 3 and leaves (-2, 2); channel (0, 0) leaves nothing: sqrt((4 + 4) / 4)."""
    gap = torch.tensor([[[1.0, 5.0], [0.0, 0.0]]])
    assert StructureGap().score(trace(gap)).item() == pytest.approx(2**0.5)
