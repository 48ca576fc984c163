import numpy as np
import pytest
import torch

from shield import Shield
from shield.detectors import Anisotropy, NoiseGap
from shield.hooks.recording import recorded
from shield.runtime.policy import Policy
from shield.types import Step, Trace
from tests.shield.calls import PROMPTS, options, thresholds


def test_hand_arithmetic():
    """Size 2 at the first step; late the gap (3, 4) and the unconditional (4, 3) have cosine 24 / 25."""

    def pixels(*values):
        return torch.tensor(values).view(1, 1, 1, 2)

    late = Step(0, 9.0, 1.0, 1e-3, "epsilon", pixels(0.0, 0.0), pixels(7.0, 7.0), pixels(4.0, 3.0))
    first = Step(0, 999.0, 0.0, 1.0, "v_prediction", None, pixels(2.0, 2.0), pixels(0.0, 0.0), late=late)
    assert Anisotropy(10.0, 5.0).score(Trace([first])).item() == pytest.approx(20.0 + 5.0 * 24 / 25)


def test_the_late_step_asks_about_the_same_noise_at_the_third_last_timestep(pipe):
    with recorded(pipe, {*Anisotropy.needs, "latents"}, first_k=1) as trace:
        pipe(PROMPTS[:2], **options(2, num_inference_steps=10))
    step, late = trace.steps[0], trace.steps[0].late
    assert late.timestep == float(pipe.scheduler.timesteps[-3]) and torch.equal(late.latents, step.latents)
    cond, _ = pipe.encode_prompt(PROMPTS[:2], "cpu", 1, False)
    with torch.no_grad():
        want = pipe.unet(late.latents, int(late.timestep), cond).sample
    assert torch.allclose(late.noise_cond, want, atol=1e-5)
    assert Anisotropy(1.0, 0.0).score(trace).tolist() == NoiseGap().score(trace).tolist()


def test_two_extra_calls_and_not_a_bit_of_difference(pipe):
    policy = Policy(detectors=(Anisotropy(),))
    result = Shield(pipe, policy, thresholds=thresholds(pipe, 1e9, policy.detectors))(PROMPTS, **options(4))
    assert np.array_equal(result.images, pipe(PROMPTS, **options(4)).images)
    assert [v.extra_calls for v in result.verdicts] == [2] * 4
