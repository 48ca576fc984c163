"""What was judged is what becomes the picture: every way of putting something else in is told, and nothing else is."""

import inspect
import types
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

from shield import Shield
from shield.detectors import StructureGap
from shield.errors import BadRequestError, MissingSignalError
from shield.hooks.custody import Custody
from shield.hooks.intercept import intercepted
from shield.hooks.recording import recorded
from shield.mitigations import InitialNoise, NullPrompt
from shield.model.autoencoders import latent_channels
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery
from shield.reasons import Reason
from shield.runtime.policy import Policy, preset
from tests.shield.calls import noises, options, thresholds
from tests.shield.test_every_family import MASK, PICTURE, WAYS, limits, made
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_sdxl, tiny_variant


def told(pipe, call):
    """What a custody notices in one call."""
    found = []
    custody = Custody(pipe, found.append)
    with torch.no_grad(), intercepted(pipe, lambda forward: None, custody=custody):
        images = pipe(**call).images
    custody.ended(images, call["output_type"])
    assert custody.steps and (found or not custody.lost)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_no_pipeline_is_told_of_itself(way):
    pipe, call = made(way)
    assert told(pipe, call()) == []
    assert told(pipe, call(output_type="latent", num_inference_steps=2)) == []


SCHEDULERS = {
    "sd": ("PNDM", "HeunDiscrete", "KDPM2AncestralDiscrete", "EulerAncestralDiscrete", "UniPCMultistep", "LCM"),
    "sd_inpaint_plain": ("KDPM2Discrete", "DPMSolverMultistep"),
    "sd3": ("FlowMatchHeunDiscrete",),
    "flux_true_inpaint_plain": ("FlowMatchHeunDiscrete",),
}


@pytest.mark.parametrize("way, name", [(way, name) for way, names in SCHEDULERS.items() for name in names])
def test_no_scheduler_is_told_of_itself(way, name):
    """Several evaluations a step, memories of earlier steps, inputs that are scaled."""
    pipe, call = made(way)
    cls = getattr(diffusers, f"{name}Scheduler")
    pipe.scheduler = cls() if name.startswith("Flow") else cls.from_config(pipe.scheduler.config)
    if not (name == "FlowMatchHeunDiscrete" and "inpaint" in way):  # which knows no noising
        assert told(pipe, call(num_inference_steps=4)) == []


def test_base_and_refiner_and_other_number_formats():
    base, call = made("sdxl")
    latents = base(**call(output_type="latent", denoising_end=0.5)).images
    assert told(base, call(output_type="latent", denoising_end=0.5, num_inference_steps=4)) == []
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(**base.components)
    refined = call(image=latents, denoising_start=0.5, num_inference_steps=4)
    assert told(refiner, refined) == []
    base.to(dtype=torch.bfloat16)
    assert told(base, call()) == []


def test_one_step_of_inpainting_has_put_the_picture_back_at_once():
    pipe = tiny_variant(StableDiffusionInpaintPipeline, "text")
    call = {"prompt": "the cat", "image": PICTURE, "mask_image": MASK, "strength": 1.0}
    assert told(pipe, {**call, **options(1, num_inference_steps=1)}) == []
    assert told(pipe, {**call, **options(1, num_inference_steps=1, output_type="latent")}) == []


@pytest.mark.parametrize("mitigation", [NullPrompt(), InitialNoise(iterations=1)])
@pytest.mark.parametrize("way", ["sd", "sd_inpaint_plain", "flux_true"])
def test_our_own_mitigations_are_told_by_their_name_alone(way, mitigation):
    pipe, call = made(way)
    policy = Policy(mitigations=(mitigation,), on_unverified="report")
    output = Shield(pipe, policy, thresholds=limits(pipe, way, -1.0))(**call())
    assert {verdict.mitigation for verdict in output.verdicts} == {mitigation.name}
    kinds = {reason.kind for verdict in output.verdicts for reason in verdict.reasons}
    assert kinds <= {"above_threshold", "unchecked", "no_gallery"}


# Ways of exchanging something once the first step was judged: what a callback does, and what is said of it.


def other_latents(pipe, tensors):
    return {"latents": torch.full((1, 4, 8, 8), 0.3)}


def written_through_numpy(pipe, tensors):
    np.multiply(tensors["latents"].numpy(), 1.5, out=tensors["latents"].numpy())
    return {}


def other_denoiser(pipe, tensors):
    pipe.unet = tiny_sd(seed=5).unet
    return {}


def other_forward(pipe, tensors):
    pipe.unet.forward = tiny_sd(seed=5).unet.forward
    return {}


def hook_on_the_output(pipe, tensors):
    pipe.unet.register_forward_hook(lambda module, args, output: (output[0] * 0.5,))
    return {}


def hook_on_the_input(pipe, tensors):
    pipe.unet.register_forward_pre_hook(lambda module, args: (args[0] * 0.5, *args[1:]))
    return {}


def other_step(pipe, tensors):
    step = pipe.scheduler.step
    pipe.scheduler.step = lambda output, *args, **kwargs: step(output * 0.5, *args, **kwargs)
    return {}


def step_of_the_class(pipe, tensors):
    pipe.scheduler.step = types.MethodType(type(pipe.scheduler).step, pipe.scheduler)
    return {}


def other_scheduler(pipe, tensors):
    timesteps = pipe.scheduler.timesteps
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(len(timesteps))
    return {}


def other_autoencoder(pipe, tensors):
    pipe.vae = tiny_sd(seed=5).vae
    return {}


def other_uncond_embeddings(pipe, tensors):
    embeds = pipe.encode_prompt(["the cat", "zzz"], "cpu", 1, False)[0]
    return {"prompt_embeds": torch.stack([embeds[1], embeds[0]])}


# The same parts, changed in place.


def other_weights(pipe, tensors):
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.5)
    return {}


def weights_behind_the_version(pipe, tensors):
    pipe.unet.conv_in.weight.data.mul_(1.5)
    return {}


def other_autoencoder_weights(pipe, tensors):
    pipe.vae.decoder.conv_out.bias.data.add_(0.5)
    return {}


def other_block(pipe, tensors):
    pipe.unet.mid_block = tiny_sd(seed=5).unet.mid_block
    return {}


def free_lunch(pipe, tensors):
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return {}


def other_processor(pipe, tensors):
    pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
    return {}


def hook_on_a_block(pipe, tensors):
    pipe.unet.mid_block.register_forward_hook(lambda module, args, output: output * 0.5)
    return {}


def forward_of_a_block(pipe, tensors):
    pipe.unet.mid_block.forward = lambda hidden, *args, **kwargs: hidden
    return {}


def forward_of_a_class(pipe, tensors):
    pipe.unet.conv_out.__class__ = type("Other", (torch.nn.Conv2d,), {"forward": lambda self, hidden: hidden[:, :4]})
    return {}


def hook_on_the_autoencoder(pipe, tensors):
    pipe.vae.decoder.register_forward_hook(lambda module, args, output: output * 0.5)
    return {}


def other_number_of_a_module(pipe, tensors):
    next(module for module in pipe.unet.modules() if hasattr(module, "to_q")).scale *= 4.0
    return {}


def other_postprocessing(pipe, tensors):
    pipe.image_processor.postprocess = lambda images, **options: np.zeros((1, 16, 16, 3))
    return {}


def other_image_processor(pipe, tensors):
    pipe.image_processor = diffusers.image_processor.VaeImageProcessor(do_normalize=False)
    return {}


def other_scheduler_config(pipe, tensors):
    pipe.scheduler.register_to_config(prediction_type="epsilon")
    return {}


def other_attention_scale(pipe, tensors):
    pipe._cross_attention_kwargs = {"scale": 5.0}
    return {}


EXCHANGES = [
    (other_weights, "callback"),
    (weights_behind_the_version, "callback"),
    (other_autoencoder_weights, "callback"),
    (other_block, "callback"),
    (free_lunch, "callback"),
    (other_processor, "callback"),
    (hook_on_a_block, "callback"),
    (forward_of_a_block, "callback"),
    (forward_of_a_class, "callback"),
    (hook_on_the_autoencoder, "callback"),
    (other_number_of_a_module, "callback"),
    (other_postprocessing, "callback"),
    (other_image_processor, "callback"),
    (other_scheduler_config, "scheduler_memory"),
    (other_attention_scale, "argument_changed"),
    (other_latents, "latents_changed"),
    (written_through_numpy, "latents_changed"),
    (other_denoiser, "denoiser_missed"),
    (other_forward, "parts_exchanged"),
    (hook_on_the_output, "parts_exchanged"),
    (hook_on_the_input, "parts_exchanged"),
    (other_step, "parts_exchanged"),
    (step_of_the_class, "parts_exchanged"),
    (other_scheduler, "parts_exchanged"),
    (other_autoencoder, "not_decoded"),
    (other_uncond_embeddings, "embeddings_exchanged"),
]


def at(when, exchange):
    def callback(pipe, step, timestep, tensors):
        return exchange(pipe, tensors) if step == when else tensors

    return callback


@pytest.mark.parametrize("exchange, why", EXCHANGES, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_exchanged_under_way_is_told(exchange, why):
    """strict holds the picture back, balanced says that it isn't judged."""
    for policy, status in (("strict", "blocked"), ("balanced", "passed")):
        pipe = tiny_sd()
        call = options(1, callback_on_step_end=at(0, exchange))
        verdict = Shield(pipe, policy, thresholds=thresholds(tiny_sd(), 1e9))("the cat", **call).verdicts[0]
        assert (verdict.status, verdict.scored) == (status, False)
        assert why in [reason.kind for reason in verdict.reasons], verdict.reasons
        assert "decode" not in vars(pipe.vae) and "prepare_latents" not in vars(pipe)


def offload(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


@pytest.mark.parametrize("prepare", [lambda pipe: None, offload])
@pytest.mark.parametrize("way", ["sd", "sdxl", "flux_true", "qwenimage_true", "sana"])
def test_a_callback_that_decodes_a_preview_changes_nothing(way, prepare):
    pipe, call = made(way)
    prepare(pipe)
    seen = []

    def preview(pipe, step, timestep, tensors):
        with torch.no_grad():
            size = (1, latent_channels(pipe), *((1,) if "qwen" in way else ()), 8, 8)
            seen.append(pipe.vae.decode(torch.zeros(size)).sample)
        return tensors

    shield = Shield(pipe, Policy(on_unverified="block"), thresholds=limits(pipe, way, 1e9))
    verdict = shield(**call(callback_on_step_end=preview)).verdicts[0]
    assert len(seen) == 3 and verdict.reasons == () and verdict.status == "passed"


def test_a_callback_in_a_call_that_is_drawn_again_changes_nothing():
    """Between two attempts an offloaded pipeline puts its own hooks on anew."""
    pipe, call = made("sd")
    offload(pipe)
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(step)
        return tensors

    gallery = Gallery()
    gallery.add([(f"work-{row}", image) for row, image in enumerate(pipe(**call(output_type="pil")).images)])
    policy = Policy(detectors=(), mitigations=(NullPrompt(),), on_unverified="block")
    verdicts = Shield(pipe, policy, gallery, thresholds=[])(**call(callback_on_step_end=look)).verdicts
    assert len(seen) > 3 and not [r for v in verdicts for r in v.reasons if r.kind == "callback"]


@pytest.mark.parametrize("answer, found", [(None, "None"), ([], "a value of type list"), ("latents", "type str")])
def test_a_callback_that_returns_no_dictionary(pipe, answer, found):
    shield = Shield(pipe, thresholds=thresholds(pipe, 1e9))
    with pytest.raises(BadRequestError, match=f"returns a dictionary of tensors.*{found}"):
        shield("the cat", **options(1), callback_on_step_end=lambda *args: answer)


@pytest.mark.parametrize("given", [["latents"], ["prompt_embeds"]])
@pytest.mark.parametrize("output_type", ["np", "latent"])
@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_flux])
def test_latents_that_come_in_after_the_last_step(make, output_type, given):
    """No denoiser call follows them; also where the callback was never given the latents."""
    pipe, way = make(), make.__name__.removeprefix("tiny_")
    small = dict(WAYS[way][1])

    def last(pipe, step, timestep, tensors):
        return {"latents": torch.zeros((1, 16, 16) if way == "flux" else (1, 4, 8, 8))} if step == 2 else tensors

    policy = Policy(extra_uncond=True, on_unverified="block")
    call = {**options(1, output_type=output_type), **small, "callback_on_step_end_tensor_inputs": given}
    shield = Shield(pipe, policy, thresholds=thresholds(pipe, 1e9))
    assert shield("the cat", **call).verdicts[0].status == "passed"
    verdict = shield("the cat", **call | {"generator": noises(1)}, callback_on_step_end=last).verdicts[0]
    assert verdict.status == "blocked" and verdict.reasons[0] == Reason("latents_changed", step=2)


def test_a_mask_that_is_exchanged_under_way():
    """The part of the picture that is kept is the same at every step."""
    pipe = tiny_variant(StableDiffusionInpaintPipeline, "text")
    call = {"prompt": "the cat", "image": PICTURE, "mask_image": MASK, **options(1, num_inference_steps=4)}

    def mask_alone(pipe, step, timestep, tensors):
        return {"mask": torch.zeros(2, 1, 8, 8)} if step == 1 else tensors

    assert told(pipe, call) == []
    changed = {**call, "generator": noises(1), "callback_on_step_end": mask_alone}
    assert told(pipe, changed)[0] == Reason("latents_changed", step=2)


def test_a_step_that_was_replaced_before_the_call(pipe):
    step = pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **kwargs: step(*args, **kwargs)
    verdict = Shield(pipe, "strict", thresholds=thresholds(tiny_sd(), 1e9))("the cat", **options(1)).verdicts[0]
    assert verdict.status == "blocked" and verdict.reasons[0].kind == "step_replaced"
    pipe.scheduler.step = step  # the class's own
    with recorded(pipe, {"noise_cond"}):  # an observer of ours is no replacement
        output = Shield(pipe, "strict", thresholds=thresholds(tiny_sd(), 1e9))("the cat", **options(1))
    assert output.verdicts[0].reasons == ()


def test_a_callback_by_position_is_watched_too(pipe):
    given = {"prompt": "the cat", **options(1, callback_on_step_end=at(2, other_latents))}
    parameters = list(inspect.signature(type(pipe).__call__).parameters.values())[1:]
    args = [given.get(one.name, one.default) for one in parameters if one.kind is not one.VAR_KEYWORD]
    verdict = Shield(pipe, "strict", thresholds=thresholds(pipe, 1e9))(*args).verdicts[0]
    assert verdict.status == "blocked" and verdict.reasons[0] == Reason("latents_changed", step=2)


@pytest.mark.parametrize("exchange", [other_denoiser, other_weights, forward_of_a_block])
def test_a_mitigation_that_another_denoiser_undoes_is_none(exchange):
    pipe = tiny_sd()
    shield = Shield(pipe, Policy(mitigations=(NullPrompt(),)), thresholds=thresholds(tiny_sd(), -1.0))
    output = shield("the cat", **options(1, callback_on_step_end=at(0, exchange)))
    assert output.verdicts[0].status == "blocked" and (output.images == 0.5).all()


def interrupt(pipe, tensors):
    pipe._interrupt = True
    return {}


@pytest.mark.parametrize("policy, status", [("strict", "blocked"), ("monitor", "passed"), ("balanced", None)])
def test_an_image_that_no_detector_scored_is_not_judged(pipe, policy, status):
    """Three steps are read, and the call is interrupted after the first."""
    shield = Shield(pipe, "monitor", thresholds=[], calibrate="never")
    # Set later, because the constructor wants a threshold where the policy says to raise.
    shield.policy = replace(preset(policy), detectors=(StructureGap(first_k=3),))
    call = options(1, callback_on_step_end=at(0, interrupt))
    if status is None:
        with pytest.raises(MissingSignalError, match="structure_gap couldn't judge"):
            shield("the cat", **call)
        return
    verdict = shield("the cat", **call).verdicts[0]
    assert (verdict.status, verdict.scored) == (status, False) and verdict.reasons[0].kind == "unscored"


def test_half_of_a_negative_prompt_guides_nothing_in_flux():
    """Flux takes a negative prompt's embeddings together alone; the prompt is judged and mitigated as without them."""
    pipe, call = made("flux")
    more = {"true_cfg_scale": 3.0, "negative_pooled_prompt_embeds": torch.zeros(3, 16)}
    policy = Policy(extra_uncond=True, mitigations=(NullPrompt(),))
    shield = Shield(pipe, policy, concepts=Concepts([Concept("anna")]), thresholds=limits(pipe, "flux", 1e9))
    output = shield(**call(**more))
    assert [verdict.status for verdict in output.verdicts] == ["passed", "passed", "mitigated"]
    assert all(score.value == score.value for verdict in output.verdicts for score in verdict.scores)


def test_img2img_goes_on_from_the_given_picture():
    pipe = tiny_variant(StableDiffusionImg2ImgPipeline, "text")
    call = {"prompt": "the cat", "image": PICTURE, "strength": 0.5, **options(1, num_inference_steps=6)}
    assert told(pipe, call) == []
