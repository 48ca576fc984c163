"""Another initial noise: the update by hand, that the picture really starts there, and that the gap falls."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from shield import Shield
from shield.errors import MissingSignalError, TraceError
from shield.hooks.latents import movable, resized
from shield.mitigations import InitialNoise, NullPrompt
from shield.model.conditioning import Conditioning
from shield.runtime.policy import Policy
from shield.types import MitigationContext
from tests.shield.calls import PROMPTS, options
from tests.tiny import tiny_sd


def linear(matrix, offset, moved, step=0, memory=None):
    """A case in which the prompt predicts A x + b and the empty prompt x."""
    return case(lambda x: x @ matrix.T + offset, moved, step, memory)


def case(predicted, moved, step=0, memory=None):
    x = torch.tensor([[1.0, 2.0]])

    def rerun(conditioning, latents=None):
        at = x if latents is None else latents
        return predicted(at) if conditioning.embeds.any() else at

    prompt, null = Conditioning(torch.ones(1, 1, 1)), Conditioning(torch.zeros(1, 1, 1))
    return MitigationContext(
        step,
        10,
        4.0,
        rerun(prompt),
        rerun(null),
        prompt,
        None,
        null,
        rerun,
        {} if memory is None else memory,
        latents=x,
        move=moved.append,
    )


MATRIX, OFFSET = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 1.0])


def test_one_step_by_hand():
    """d(x) = (2 x1, 1): at (1, 2) it is (2, 1), of size sqrt(2.5). Ahead by 0.5 along it d grows by 2 * 0.5 * 2 /
    sqrt(2.5) in the first place, and x1 falls by half of that.
    """
    moved = []
    InitialNoise(iterations=1, rate=0.5, radius=0.5).predicted(linear(MATRIX, OFFSET, moved))
    down = torch.tensor([[1.0 - 1.0 / 2.5**0.5, 2.0]])
    assert torch.allclose(moved[0], resized(down, torch.tensor([[1.0, 2.0]])), atol=1e-5)
    assert moved[0].norm().item() == pytest.approx(5**0.5, rel=1e-5)


@pytest.mark.parametrize("unguided", [0.0, 0.1])
def test_guidance_is_that_of_the_new_noise(unguided):
    """With guidance g the pipeline's formula gives u' + g (c' - u') at the new latents, or u' alone."""
    moved = []
    one = linear(MATRIX, OFFSET, moved)
    changed = InitialNoise(unguided=unguided).predicted(one)
    guided = one.noise_uncond + 4.0 * (changed - one.noise_uncond)
    gap = moved[0] @ MATRIX.T + OFFSET - moved[0]
    assert torch.allclose(guided, moved[0] + (4.0 if unguided == 0 else 0.0) * gap, atol=1e-5)
    later = linear(MATRIX, OFFSET, moved, 2, one.memory)
    assert torch.equal(InitialNoise(unguided=unguided).predicted(later), later.noise_cond) and len(moved) == 1
    early = linear(MATRIX, OFFSET, moved, 1, one.memory)
    assert torch.equal(InitialNoise(unguided=0.2).predicted(early), early.noise_uncond)
    with pytest.raises(MissingSignalError, match="first step"):
        InitialNoise().predicted(linear(MATRIX, OFFSET, moved, 1))


@pytest.mark.parametrize("way", ["descent", "sharpness"])
def test_by_gradient_the_gap_falls(way):
    """The gap is x squared, place by place: it and its slope fall with x."""
    one = case(lambda x: x + x.square(), [])
    InitialNoise(way, iterations=4, learning_rate=0.1, share=0.1, prior=0.0).predicted(one)
    gaps = one.memory["gaps"]
    assert gaps[-1] < 0.6 * gaps[0] and len(gaps) <= 21


@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_the_picture_is_the_one_of_the_new_noise(scheduler):
    """Moved by hand: the same as the pipeline started from there, whatever the scheduler does with its history."""
    pipe = tiny_sd("epsilon")
    if scheduler:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    start, other = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    wanted = torch.stack([start[0], other[1]])
    call = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}
    want = pipe(PROMPTS[:2], latents=wanted.clone(), **call).images

    class Elsewhere(NullPrompt):
        """Has the picture go on from elsewhere, with the guided prediction that belongs there."""

        name = "initial_noise"
        conditioned = None

        def predicted(self, case):
            if case.step:
                return case.noise_cond
            there = resized(other[[1]], other[[1]]) * float(case.latents.norm() / start[1].norm())
            case.move(there)
            null, cond = case.rerun(case.null, there), case.rerun(case.original, there)
            return case.noise_uncond + (null - case.noise_uncond) / case.guidance_scale + cond - null

    policy = Policy(detectors=(), mitigations=(_as_prediction(Elsewhere),))
    shield = Shield(pipe, policy, concepts=_names("a dog"), thresholds=[], calibrate="never")
    found = shield(PROMPTS[:2], latents=start.clone(), **call).images
    assert np.array_equal(found[0], pipe(PROMPTS[:2], latents=start.clone(), **call).images[0])
    assert (
        np.abs(found[1] - want[1]).max()
        < 2e-3
        < np.abs(found[1] - shield.pipe(PROMPTS[:2], latents=start.clone(), **call).images[1]).max()
    )


def _as_prediction(cls):
    return type(cls.__name__, (), {"name": cls.name, "needs_prompt": False, "predicted": cls.predicted})()


def _names(name):
    from shield.protected.concepts import Concept, Concepts

    return Concepts([Concept(name, substitute="a thing")])


@pytest.mark.parametrize("way", ["difference", "descent", "sharpness"])
def test_in_the_shield_the_others_stay_to_the_bit(pipe, way):
    bare = pipe(PROMPTS, **options(4)).images
    policy = Policy(detectors=(), mitigations=(InitialNoise(way),))
    result = Shield(pipe, policy, concepts=_names("a dog"), thresholds=[], calibrate="never")(PROMPTS, **options(4))
    assert [v.mitigation for v in result.verdicts] == [None, "initial_noise", None, None]
    assert [np.array_equal(a, b) for a, b in zip(bare, result.images, strict=True)] == [True, False, True, True]
    # 2 calls beside the gap that is known, 4 an iteration, one at the end
    assert result.verdicts[1].extra_calls == (9 if way == "difference" else result.verdicts[1].extra_calls)


def test_a_move_is_made_once_and_the_scheduler_restored():
    class Scheduler:
        def step(self, output, timestep, sample, generator=None):
            return sample + output

    scheduler, moves = Scheduler(), {}
    with movable(scheduler, moves):
        moves[1] = (torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0]))
        sample = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
        # The denoiser was given a third of the sample, so the new one is three times as large as well.
        assert scheduler.step(0.0, 1, sample).tolist() == [[1.0, 1.0], [0.0, 6.0]]
        assert "generator" in inspect.signature(scheduler.step).parameters
        assert scheduler.step(0.0, 1, sample=sample).tolist() == sample.tolist() and not moves
        moves[0] = (torch.ones(2), torch.ones(3))
        with pytest.raises(TraceError):
            scheduler.step(0.0, 1, sample)
    assert "step" not in vars(scheduler)
    held = scheduler.step = partial(max, 1)
    with movable(scheduler, {}):
        assert scheduler.step is not held
    assert scheduler.step is held


def test_a_scheduler_that_draws_noise_is_given_its_generator(pipe):
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=False)
    bare = pipe(PROMPTS[:2], **options(2)).images
    shielded = Shield(pipe, Policy(detectors=()), thresholds=[], calibrate="never")(PROMPTS[:2], **options(2)).images
    assert np.array_equal(bare, shielded)
