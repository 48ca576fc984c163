"""Sharpness: by hand where the gap is linear in the latents, and what its two extra calls ask."""

import numpy as np
import pytest
import torch

from shield import Shield
from shield.detectors import Sharpness
from shield.hooks.extra_predictions import SHIFT
from shield.hooks.recording import recorded
from shield.runtime.policy import Policy
from shield.types import Step, Trace
from tests.shield.calls import PROMPTS, options, thresholds


def pixels(*values):
    return torch.tensor(values).view(1, 1, 1, 2)


def test_hand_arithmetic():
    """Gap (3, 4), of size sqrt(12.5); moved by (0.6, 0.8) it is (3, 6): 2 further over a way of 1. 12.5 ** .5 * 2."""
    moved = Step(0, 999.0, 0.0, 1.0, "sample", pixels(1.6, 1.8), pixels(4.0, 7.0), pixels(1.0, 1.0))
    first = Step(0, 999.0, 0.0, 1.0, "sample", pixels(1.0, 1.0), pixels(4.0, 5.0), pixels(1.0, 1.0), shifted=moved)
    assert Sharpness().score(Trace([first])).item() == pytest.approx(2 * 12.5**0.5)


@pytest.mark.parametrize("size", [0.01, 0.25])
def test_it_is_the_jacobian_times_the_gap(size):
    """For a gap A x + b the derivative is A whatever the step: ||A g|| by a matrix product."""
    draw = torch.Generator().manual_seed(0)
    matrix, offset, x = (torch.randn(*shape, generator=draw) for shape in ((8, 8), (8,), (2, 8)))

    def step(at, shifted=None):
        cond = (at @ matrix.T + offset).view(2, 2, 2, 2)
        return Step(0, 999.0, 0.0, 1.0, "sample", at.view(2, 2, 2, 2), cond, torch.zeros(2, 2, 2, 2), shifted=shifted)

    gap = x @ matrix.T + offset
    moved = step(x + size * gap / gap.pow(2).mean(1, keepdim=True).sqrt())
    want = (gap @ matrix.T).pow(2).mean(1).sqrt()
    assert torch.allclose(Sharpness().score(Trace([step(x, moved)])), want, rtol=1e-3)


def test_the_shifted_step_asks_both_prompts_about_latents_along_the_gap(any_pipe):
    pipe = any_pipe
    with recorded(pipe, Sharpness.needs, first_k=1, stop=True) as trace:
        pipe(PROMPTS[:2], **options(2))
    step = trace.steps[0]
    moved, gap = (
        step.asked_shifted(),
        step.gap("epsilon") if pipe.scheduler.config.prediction_type == "epsilon" else (-step.gap("x0")),
    )
    way = (moved.latents - step.latents).flatten(1)
    assert torch.allclose(way.pow(2).mean(1).sqrt(), torch.full((2,), SHIFT), rtol=1e-3)
    assert torch.allclose(torch.cosine_similarity(way, gap.flatten(1)), torch.ones(2), atol=1e-4)
    cond, uncond = pipe.encode_prompt(PROMPTS[:2], "cpu", 1, True)
    with torch.no_grad():
        for said, embeds in ((moved.noise_cond, cond), (moved.noise_uncond, uncond)):
            assert torch.allclose(said, pipe.unet(moved.latents, int(step.timestep), embeds).sample, atol=1e-5)


def test_two_extra_calls_and_not_a_bit_of_difference(pipe):
    policy = Policy(detectors=(Sharpness(),))
    result = Shield(pipe, policy, thresholds=thresholds(pipe, 1e9, policy.detectors))(PROMPTS, **options(4))
    assert np.array_equal(result.images, pipe(PROMPTS, **options(4)).images)
    assert [v.extra_calls for v in result.verdicts] == [2] * 4
