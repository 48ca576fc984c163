"""One unconditional prediction a seed: equal to the stacked pass, paid once, and only where it holds."""

import pytest
import torch

from probes.drawing.draw import Sampling, drawn_by_pipeline, jobs_for
from probes.inputs.prompts import PromptRecord
from probes.model.generate import generators
from probes.runs.cost import counted
from probes.types import Subject
from shield.detectors import Anisotropy, AttentionEntropy, NoiseGap, StructureGap
from shield.hooks.intercept import denoiser_of
from shield.hooks.recording import recorded
from shield.hooks.shared_uncond import SharedUncond, shareable
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

PIPES = {"epsilon": lambda: tiny_sd("epsilon"), "v_prediction": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3}
PROMPTS, SEEDS = ["the cat", "", "the cat", "a thing"], [4, 9, 9, 4]
NEEDS = {"latents", "noise_cond", "noise_uncond"}


@pytest.fixture(scope="module", params=PIPES)
def pipe(request):
    return PIPES[request.param]()


def trace_of(pipe, prompts, seeds, shared=None):
    """The first step of one call, with guidance, or with the halves that were shared."""
    uncond = shared.of(seeds) if shared else False
    with torch.no_grad(), recorded(pipe, NEEDS, first_k=1, stop=True, extra_uncond=uncond) as trace:
        pipe(prompt=prompts, generator=generators(seeds), num_inference_steps=3, guidance_scale=1.0 if shared else 5.0)
    return trace.steps[0]


def test_equals_the_stacked_pass(pipe):
    shared, stacked = trace_of(pipe, PROMPTS, SEEDS, SharedUncond(pipe)), trace_of(pipe, PROMPTS, SEEDS)
    assert shared.latents.equal(stacked.latents) and shared.timestep == stacked.timestep
    for name in ("noise_cond", "noise_uncond"):
        one, other = getattr(shared, name), getattr(stacked, name)
        assert (one - other).abs().max() <= 2e-6 * other.abs().max(), name
    assert not shared.noise_uncond[0].allclose(shared.noise_uncond[1])  # another seed, another prediction
    assert shared.noise_uncond[1].allclose(shared.noise_cond[1], rtol=1e-4, atol=1e-6) or pipe.config.get(
        "force_zeros_for_empty_prompt"
    )  # row 1 has the empty prompt


def test_equals_it_where_the_denoiser_gets_the_same_batch(pipe):
    """Four rows, two without a prompt, are what the stacked pass of two prompts gives the denoiser, up to the rounding
    of text encoders, which see four prompts here and two there.
    """
    if pipe.config.get("force_zeros_for_empty_prompt"):
        pytest.skip("this family's empty prompt isn't a prompt that a user can write")
    halves = trace_of(pipe, ["", "", "the cat", "red"], [4, 9, 4, 9], SharedUncond(pipe)).noise_cond
    stacked = trace_of(pipe, ["the cat", "red"], [4, 9])
    for one, other in ((halves[:2], stacked.noise_uncond), (halves[2:], stacked.noise_cond)):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


def test_a_seeds_prediction_doesnt_depend_on_the_batch(pipe):
    alone = trace_of(pipe, ["red"], [9], SharedUncond(pipe)).noise_uncond[0]
    among = trace_of(pipe, PROMPTS, SEEDS, SharedUncond(pipe)).noise_uncond
    assert among[1].equal(alone) and among[2].equal(alone)


def test_one_evaluation_for_each_prompt_and_one_for_each_seed(pipe):
    shared = SharedUncond(pipe)
    with counted(denoiser_of(pipe)) as cost:
        trace_of(pipe, PROMPTS, SEEDS, shared)
        assert cost.evaluations == 4 + 2
        trace_of(pipe, PROMPTS, SEEDS, shared)
    assert cost.evaluations == 4 + 2 + 4


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_scores_are_those_of_the_ordinary_path(batch):
    subject = Subject(tiny_sd(), "tiny")
    jobs = jobs_for(
        [PromptRecord(str(n), prompt) for n, prompt in enumerate(["the cat", "red", "", "other"])], [1, 2, 3]
    )
    layer = next(name for name, _ in subject.denoiser.named_modules() if name.endswith("attn2"))
    fast = [StructureGap(), NoiseGap(), AttentionEntropy(layer=layer)]
    one = [
        drawn
        for start in range(0, 12, batch)
        for drawn in drawn_by_pipeline(subject, Sampling(3, 5.0), fast, pictures=False)(jobs[start : start + batch])
    ]
    other = drawn_by_pipeline(subject, Sampling(3, 5.0), [*fast, Anisotropy()], pictures=False)(jobs)
    for name in ("structure_gap", "noise_gap", "attention_entropy"):
        ours, theirs = ([drawn.scores[name] for drawn in found] for found in (one, other))
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6), name


def test_half_precision_stays_near(any_pipe):
    """bfloat16 has eight bits: two passes of another shape differ by a few of its last ones."""
    any_pipe.to(torch.bfloat16)
    shared, stacked = trace_of(any_pipe, PROMPTS, SEEDS, SharedUncond(any_pipe)), trace_of(any_pipe, PROMPTS, SEEDS)
    for name in ("noise_cond", "noise_uncond"):
        one, other = getattr(shared, name), getattr(stacked, name)
        assert (one - other).abs().max() <= 2**-6 * other.abs().max(), name


def test_shared_only_where_it_holds(pipe):
    assert shareable(pipe, [StructureGap(), NoiseGap()], 5.0)
    assert shareable(pipe, [AttentionEntropy()], 5.0)
    assert not shareable(pipe, [StructureGap(), NoiseGap(first_k=2)], 5.0)
    assert not shareable(pipe, [Anisotropy()], 5.0) and not shareable(pipe, [NoiseGap()], 1.0)
    assert not shareable(pipe, [], 5.0)
    assert not shareable(tiny_flux(), [NoiseGap()], 5.0)


def test_a_scale_that_enters_the_denoiser_is_never_left_out():
    pipe = tiny_sd()
    pipe.unet.register_to_config(time_cond_proj_dim=32)
    assert not shareable(pipe, [NoiseGap()], 5.0)
