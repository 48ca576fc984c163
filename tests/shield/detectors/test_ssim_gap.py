"""Similarity of first predictions: against a second computation, and what the extra calls ask."""

import numpy as np
import pytest
import torch

from shield import Shield
from shield.detectors import SsimGap
from shield.detectors.ssim_gap import ssim, stretched
from shield.errors import MissingSignalError
from shield.hooks.recording import recorded
from shield.runtime.policy import Policy
from shield.types import Step, Trace
from tests.shield.calls import PROMPTS, options, thresholds


def step(clean, redrawn=()):
    return Step(0, 999.0, 0.0, 1.0, "sample", torch.zeros_like(clean), clean, redrawn=redrawn)


def maps(*seeds):
    return torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])


def test_the_highest_of_all_pairs():
    """The second image's further predictions are alike, the first's aren't; a gain and an offset change nothing."""
    own, further = maps(0, 1), (maps(2, 3), maps(4, 3) * 5 + 2)
    score = SsimGap(2).score(Trace([step(own, tuple(step(one) for one in further))]))
    assert score[1].item() == pytest.approx(1.0, abs=1e-5) and abs(score[0].item()) < 0.3
    pairs = [(own, further[0]), (own, further[1]), (further[0], further[1])]
    want = max(_ssim(one[0].numpy(), two[0].numpy()) for one, two in pairs)
    assert score[0].item() == pytest.approx(want, abs=1e-5)


def _ssim(one, two):
    """Channel by channel, window by window, in numpy."""
    bell = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    window, found = np.outer(bell, bell) / bell.sum() ** 2, []
    for a, b in zip(one.astype(float), two.astype(float), strict=True):
        a, b = ((v - v.min()) / (v.max() - v.min()) for v in (a, b))
        for y in range(2):
            for x in range(2):
                p, q = a[y : y + 7, x : x + 7], b[y : y + 7, x : x + 7]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                found.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(found)


def test_packed_latents_are_no_maps():
    with pytest.raises(MissingSignalError, match="maps"):
        stretched(torch.zeros(1, 4, 16))
    assert torch.isfinite(ssim(*[stretched(torch.zeros(1, 2, 3, 3))] * 2)).all()


def test_everybody_is_asked_about_the_same_noises(pipe):
    with recorded(pipe, SsimGap(2).needs, first_k=1, stop=True) as trace:
        pipe(PROMPTS[:2], **options(2))
    first, second = trace.steps[0].asked_redrawn(2)
    assert torch.equal(first.latents[0], first.latents[1]) and not torch.equal(first.latents, second.latents)
    assert 0.8 < float(first.latents.std()) < 1.2
    cond, _ = pipe.encode_prompt(PROMPTS[:2], "cpu", 1, False)
    with torch.no_grad():
        assert torch.allclose(second.noise_cond, pipe.unet(second.latents, 999, cond).sample, atol=1e-5)
    with pytest.raises(MissingSignalError, match="redrawn:3"):
        SsimGap(3).score(trace)


def test_one_extra_call_a_noise_and_not_a_bit_of_difference(pipe):
    policy = Policy(detectors=(SsimGap(),))
    result = Shield(pipe, policy, thresholds=thresholds(pipe, 1e9, policy.detectors))(PROMPTS, **options(4))
    assert np.array_equal(result.images, pipe(PROMPTS, **options(4)).images)
    assert [v.extra_calls for v in result.verdicts] == [3] * 4
