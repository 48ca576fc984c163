import diffusers
import numpy as np
import pytest
import torch

from shield import Shield
from shield.errors import TraceError
from shield.hooks.intercept import intercepted
from shield.hooks.recording import recorded
from shield.mitigations import NullPrompt
from shield.runtime.policy import Policy
from tests.shield.calls import noises, options, thresholds
from tests.shield.test_every_family import limits, made


@pytest.mark.parametrize("way", ["flux", "flux_true"])
def test_timesteps_that_bfloat16_makes_equal(way, steps=28):
    """Each step is scored and swapped as one, so a flagged picture is the empty prompt's."""
    limit = limits(made(way)[0], way, -1.0)
    pipe, call = made(way)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=25.0)
    pipe.to(torch.bfloat16)
    few = {"num_inference_steps": steps}
    empty, bare = pipe(**call([""] * 3, **few)).images, pipe(**call(**few)).images
    policy = Policy(extra_uncond=way == "flux", mitigations=(NullPrompt(),), on_unscored="pass")
    with recorded(pipe, {"noise_cond", "noise_uncond"}) as trace:
        result = Shield(pipe, policy, thresholds=limit)(**call(**few))
    times = [step.timestep for step in trace.steps]
    assert len(times) == steps and len(set(times)) < steps
    assert {step.noise_uncond is None for step in trace.steps} == {way == "flux"}
    assert np.abs(empty - result.images).mean() < 0.1 * np.abs(empty - bare).mean()
    assert [len(verdict.scores) for verdict in result.verdicts] == [1] * 3
    sigmas = [float(sigma) for sigma in pipe.scheduler.sigmas[:-1]]
    assert [step.noise for step in trace.steps] == sigmas  # the step's own, not the rounded timestep's


def test_a_scheduler_that_is_exchanged_under_way(pipe):
    def exchange(pipe, step, timestep, tensors):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        pipe.scheduler.set_timesteps(3)
        return {}

    with pytest.raises(TraceError, match="was the scheduler exchanged"), recorded(pipe, {"noise_cond"}):
        pipe("the cat", **options(1, callback_on_step_end=exchange))


def test_a_second_call_is_noticed_though_its_timesteps_fall(pipe):
    """The first one ends early, so the second one's timesteps go on below it."""

    def stop(pipe, step, timestep, tensors):
        raise KeyError

    pipe("the cat", **options(1))
    with pytest.raises(TraceError, match="one block for one pipeline call"), intercepted(pipe, lambda forward: None):
        with pytest.raises(KeyError):
            pipe("the cat", **options(1, num_inference_steps=2, callback_on_step_end=stop))
        pipe("the cat", **options(1))


def test_an_observer_is_not_shown_what_another_asks(pipe):
    """The shield's own calls of the denoiser are no steps for whoever watches around it."""
    asking = Shield(pipe, Policy(mitigations=(NullPrompt(),)), thresholds=thresholds(pipe, -1.0))
    with recorded(pipe, {"noise_cond"}) as trace:
        output = asking("the cat", negative_prompt="x", **options(1))
    assert output.verdicts[0].extra_calls > 0 and [step.index for step in trace.steps] == [0, 1, 2]


def test_the_scheduler_is_left_as_it_was(pipe):
    held = pipe.scheduler.step
    with pytest.raises(KeyError), intercepted(pipe, lambda forward: None):
        assert pipe.scheduler.step is not held
        raise KeyError
    assert "step" not in vars(pipe.scheduler)
    pipe.scheduler.step = held  # somebody else's, which stays theirs
    with intercepted(pipe, lambda forward: None):
        pipe("the cat", generator=noises(1), **options())
    assert vars(pipe.scheduler)["step"] is held
