"""Every scheduler of diffusers: its noise levels are what it itself adds and scales by, or it is refused by name."""

import inspect

import diffusers
import numpy as np
import pytest
import torch

from shield import Shield
from shield.errors import UnsupportedPipelineError
from shield.hooks.recording import recorded
from shield.mitigations import NullPrompt
from shield.model.prediction import converted, noise_levels, prediction_type, unreadable
from shield.model.schedules import KINDS, kind_of
from shield.protected.concepts import Concept, Concepts
from shield.runtime.policy import Policy
from tests.shield.calls import noises, options, state
from tests.tiny import tiny_scheduler, tiny_sd
from tests.tiny_families import tiny_sd3

ALL = sorted(n for n in dir(diffusers) if n.endswith("Scheduler") and inspect.isclass(getattr(diffusers, n)))
NEEDS_MORE = {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}  # torchsde, which isn't installed here
KNOWN = [f"{name}Scheduler" for names in KINDS.values() for name in names]
RUNNABLE = [name for name in KNOWN if name not in NEEDS_MORE]
SPACED = ("DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "SASolver")
VARIED = [
    *(("EulerDiscrete", {o: True}) for o in ("use_karras_sigmas", "use_exponential_sigmas", "rescale_betas_zero_snr")),
    ("HeunDiscrete", {"use_karras_sigmas": True}),
    ("LMSDiscrete", {"use_karras_sigmas": True}),
    ("KDPM2Discrete", {"use_karras_sigmas": True, "timestep_spacing": "linspace"}),
    ("KDPM2AncestralDiscrete", {"use_exponential_sigmas": True}),
    *((name, {"use_karras_sigmas": True}) for name in SPACED),
    *((name, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}) for name in SPACED),
    ("DPMSolverMultistep", {"use_exponential_sigmas": True}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ("EDMEuler", {"sigma_data": 1.0, "prediction_type": "v_prediction"}),
    ("PNDM", {"skip_prk_steps": True}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ("FlowMatchEulerDiscrete", {"use_karras_sigmas": True}),
]
X0, EPS = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))


def scheduler_of(name, **more):
    cls = getattr(diffusers, name)
    wanted = set(inspect.signature(cls.__init__).parameters)
    config = {k: v for k, v in tiny_scheduler("epsilon", False).config.items() if k in wanted and k[0] != "_"}
    return cls(**{**config, **more})


def shares(tensor):
    """How much of X0 and of EPS makes up the tensor, by least squares."""
    basis = torch.stack([X0.flatten(), EPS.flatten()], dim=1).double()
    return torch.linalg.lstsq(basis, tensor.flatten().double()[:, None]).solution.flatten().tolist()


def own_levels(scheduler, place, timestep):
    """(signal, noise) by the scheduler's own scaling where it has one, otherwise by its own add_noise. SASolver's
    reads a rounded timestep, and LTX's has none: they are asked for the sigma that they step from.
    """
    scale = getattr(scheduler, "scale_model_input", None)
    factor = 1.0 if scale is None else float(scale(torch.ones(1), timestep))
    if factor != 1.0:
        return factor, (1.0 - (getattr(scheduler.config, "sigma_data", 1.0) * factor) ** 2) ** 0.5
    if isinstance(scheduler, diffusers.SASolverScheduler):
        return tuple(float(v) for v in scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[place]))
    if isinstance(scheduler, diffusers.LTXEulerAncestralRFScheduler):
        return 1.0 - float(scheduler.sigmas[place]), float(scheduler.sigmas[place])
    other = type(scheduler).from_config(scheduler.config)
    other.set_timesteps(7)
    if hasattr(other, "set_begin_index"):
        other.set_begin_index(place)
    if hasattr(other, "add_noise"):
        return shares(other.add_noise(X0, EPS, timestep[None]))
    return shares(other.scale_noise(X0, timestep[None], EPS))


def driven(scheduler, steps=7):
    """(place, timestep) of each step, with the scheduler in the state in which a pipeline calls its denoiser."""
    scheduler.set_timesteps(steps)
    sample = EPS * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for place, timestep in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        yield place, timestep
        sample = scheduler.step(0.1 * EPS, timestep, sample, return_dict=False)[0]


@pytest.mark.parametrize(("name", "more"), [*((n.removesuffix("Scheduler"), {}) for n in RUNNABLE), *VARIED])
def test_noise_levels_are_the_schedulers_own(name, more):
    scheduler = scheduler_of(f"{name}Scheduler", **more)
    for place, timestep in driven(scheduler):
        found = noise_levels(scheduler, float(timestep), is_running=True)
        assert found == pytest.approx(own_levels(scheduler, place, timestep), rel=2e-3, abs=2e-4), place


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_predictions_give_the_schedulers_own_clean_latent(prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction)
    sigma, output = 2.5, torch.randn(1, 4, 8, 8)
    noisy = X0 + sigma * EPS
    given = scheduler.precondition_inputs(noisy, sigma)
    levels = noise_levels(scheduler, float(scheduler.precondition_noise(sigma)))
    clean = converted(output, prediction_type(scheduler), "x0", *levels, given)
    assert torch.allclose(clean, scheduler.precondition_outputs(noisy, output, sigma), atol=1e-5)
    eps = converted(output, prediction_type(scheduler), "epsilon", *levels, given)
    assert torch.allclose(levels[0] * clean + levels[1] * eps, given, atol=1e-5)


def test_every_scheduler_of_diffusers_is_known_or_refused_by_its_name():
    assert set(RUNNABLE) <= set(ALL)
    for name in set(ALL) - set(KNOWN):
        cls = getattr(diffusers, name)
        with pytest.raises(UnsupportedPipelineError, match=name):
            kind_of(cls.__new__(cls))


def test_flow_matching_is_flow_whatever_its_config_was_made_from():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(tiny_scheduler("epsilon").config)
    assert scheduler.config["prediction_type"] == "epsilon" and prediction_type(scheduler) == "flow"


def rises(times):
    return any(b > a for a, b in zip(times, times[1:], strict=False))


def test_every_scheduler_that_draws_draws_the_same_behind_the_shield():
    """Repeated and rising timesteps among them: one record a step, and not a bit of the picture is another's."""
    seen, sd, sd3 = set(), tiny_sd("epsilon"), tiny_sd3()
    for name in RUNNABLE:
        pipe = sd3 if name.removesuffix("Scheduler") in KINDS["flow"] else sd
        pipe.scheduler = scheduler_of(name)
        call = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "np"}
        torch.manual_seed(0)  # SD3 gives its scheduler no generator, and some draw
        bare = pipe("the cat", generator=noises(1), **call).images
        shield = Shield(pipe, Policy(on_unscored="pass"), thresholds=[], calibrate="never")
        torch.manual_seed(0)
        with recorded(pipe, {"noise_cond"}) as trace:
            result = shield("the cat", generator=noises(1), **call)
        assert np.array_equal(bare, result.images), name
        score = result.verdicts[0].scores[0].value
        assert len(trace.steps) == len(pipe.scheduler.timesteps) and score == score, name
        seen |= {"rises"} if rises([step.timestep for step in trace.steps]) else set()
    assert seen == {"rises"}


@pytest.mark.parametrize("name", ["IPNDMScheduler", "CMStochasticIterativeScheduler"])
def test_an_unknown_scheduler_is_refused_or_told(name):
    pipe = tiny_sd("epsilon")
    pipe.scheduler = getattr(diffusers, name)()
    bare, before, calls = pipe("the cat", **options(1)).images, state(pipe), []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(UnsupportedPipelineError, match=name):
        shield = Shield(pipe, Policy(on_unscored="block"), thresholds=[], calibrate="never")
        shield.policy = Policy()
        shield("the cat", **options(1))
    with pytest.raises(UnsupportedPipelineError, match=name), recorded(pipe, {"noise_cond"}):
        pipe("the cat", **options(1))
    handle.remove()
    assert not calls and state(pipe)["scheduler"] == before["scheduler"]
    for unscored, status in (("pass", "passed"), ("block", "blocked")):
        output = Shield(pipe, Policy(on_unscored=unscored), thresholds=[], calibrate="never")("the cat", **options(1))
        verdict = output.verdicts[0]
        assert (verdict.status, verdict.scored) == (status, False)
        assert {"unscored", "unreadable"} <= {r.kind for r in verdict.reasons} and any(
            name in str(r) for r in verdict.reasons
        )
        assert np.array_equal(output.images, bare) == (status == "passed")
    screen = Concepts([Concept("cat", substitute="a dog")])
    output = Shield(pipe, Policy(on_unscored="pass"), concepts=screen, thresholds=[], calibrate="never")(
        "the cat", **options(1)
    )
    assert (
        output.verdicts[0].rewritten_prompt == "a dog"
    )  # though no detector could say that it holds: not the empty prompt
    off = Policy(detectors=(), mitigations=(NullPrompt(),))  # nothing looks at steps, so nothing is missing
    verdict = Shield(pipe, off, thresholds=[], calibrate="never")("the cat", **options(1)).verdicts[0]
    assert verdict.status == "passed" and verdict.scored and verdict.reasons == ()


@pytest.mark.parametrize("name", ["DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"])
def test_an_inverse_scheduler_is_refused_with_its_own_reason(name):
    pipe = tiny_sd("epsilon")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    for policy in (Policy(on_unscored="pass"), Policy(detectors=())):
        with pytest.raises(UnsupportedPipelineError, match=f"{name} runs from a picture towards noise"):
            Shield(pipe, policy, thresholds=[], calibrate="never")("the cat", **options(1))
    assert name in unreadable(pipe.scheduler)
