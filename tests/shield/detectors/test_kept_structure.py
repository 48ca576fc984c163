import math

import pytest
import torch

from shield.detectors import KeptStructure, StructureGap
from shield.errors import MissingSignalError
from shield.runtime.trajectory import detectors_at
from shield.types import Step, Trace


def step(index, guess):
    """A step whose conditional prediction of the clean latent is `guess` (B, C, ...)."""
    return Step(index, 999.0 - index, 0.5, 0.5, "sample", torch.zeros_like(guess), guess)


def waves(*amplitudes, side=8):
    """One image, one channel: cosines of 2, 3, ... cycles along the width, of these amplitudes."""
    x = torch.arange(side) / side
    row = sum(a * torch.cos(2 * math.pi * c * x) for c, a in enumerate(amplitudes, 2))
    return row.expand(1, 1, side, side).clone()


def score(first, later, **options):
    return KeptStructure(first_k=2, **options).score(Trace([step(0, first), step(1, later)])).item()


def test_hand_arithmetic():
    """Waves (3, 4) against (3, 0): cosine 9 / 15, so .4 has changed. Half of the contrast is the same structure."""
    assert score(waves(3, 4), waves(3, 0)) == pytest.approx(-math.log(0.4), abs=1e-4)
    assert score(waves(3, 4), 0.01 * waves(3, 0)) == pytest.approx(-math.log(0.4), abs=1e-4)
    assert score(waves(1, 0), waves(0, 1)) == pytest.approx(0.0, abs=1e-4)  # all has changed
    assert score(waves(1, 0), -waves(1, 0)) == pytest.approx(-math.log(2), abs=1e-4)


def test_equal_guesses_score_a_number():
    assert score(waves(1, 2), waves(1, 2)) == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_ground_color_and_shading_dont_count():
    x = torch.arange(8) / 8
    shading = 5.0 + 4.0 * torch.cos(2 * math.pi * x).expand(1, 1, 8, 8)
    assert score(waves(3, 4) + shading, waves(3, 0)) == pytest.approx(-math.log(0.4), abs=1e-4)


def test_each_image_by_itself_and_packed_latents():
    first, later = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)).chunk(2, 0)
    both = KeptStructure(2).score(Trace([step(0, torch.cat([first, later])), step(1, torch.cat([first, first]))]))
    assert both[0].item() > 13.0
    assert both[1].item() == pytest.approx(score(later, first + 7.0), abs=1e-4)  # each channel's mean is removed


def test_it_compares_the_first_step_with_the_last_that_it_reads():
    steps = [step(0, waves(3, 4)), step(1, waves(9, 9)), step(2, waves(3, 0)), step(3, waves(0, 1))]
    assert KeptStructure(first_k=3).score(Trace(steps)).item() == pytest.approx(-math.log(0.4), abs=1e-4)
    with pytest.raises(MissingSignalError, match="first 11 steps are needed"):
        KeptStructure().score(Trace(steps))
    with pytest.raises(MissingSignalError, match="two or more"):
        KeptStructure(first_k=1).score(Trace(steps))


def test_along_a_schedule_it_looks_in_structure_gaps_place():
    early, late = detectors_at((StructureGap(),), (0.0, 0.4))
    assert (early.detector, late.detector, late.asked_for) == (StructureGap(), KeptStructure(), StructureGap())
    assert late.score(step(10, waves(3, 0)), step(0, waves(3, 4))).item() == pytest.approx(-math.log(0.4), abs=1e-4)
    with pytest.raises(MissingSignalError):
        late.score(step(10, waves(3, 0)))
