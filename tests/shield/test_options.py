"""Every option of a pipeline keeps working behind the shield, bit for bit, in every family that has it."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from shield import Gallery, Shield
from shield.hooks.intercept import denoiser_of
from shield.model.fingerprint import model_sha256
from shield.runtime.policy import Policy
from tests.shield.calls import noises
from tests.shield.test_every_family import PROMPTS, limits, made
from tests.tiny_families import tiny_picture

WAYS = ["sd", "sdxl", "sd3", "flux_true", "sd_img2img", "sd_inpaint", "sdxl_control"]
every = pytest.mark.parametrize("way", WAYS)


@torch.no_grad()
def embeds(pipe):
    """The prompts' and the empty prompt's embeddings, as arguments of the pipeline's call."""
    names = ("prompt_embeds", "pooled_prompt_embeds")
    found = {"prompt": None, "negative_prompt": None}
    for prefix, texts in (("", PROMPTS), ("negative_", [""] * 3)):
        if isinstance(pipe, diffusers.FluxPipeline):
            made = pipe.encode_prompt(texts, None, max_sequence_length=16)[:2]
        elif isinstance(pipe, diffusers.StableDiffusion3Pipeline):
            made = pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)[::2]
        elif "XL" in type(pipe).__name__:
            made = pipe.encode_prompt(texts, do_classifier_free_guidance=False)[::2]
        else:
            made = pipe.encode_prompt(texts, "cpu", 1, False)[:1]
        found |= {prefix + name: tensor for name, tensor in zip(names, made, strict=False)}
    return found


def brighter(pipe, step, timestep, tensors):
    return {"latents": tensors["latents"] * 1.01}


# What a call is given, and how many extra denoiser calls a score then takes.
CALLS = {
    "plain": (lambda pipe: {}, 0),
    "tuple": (lambda pipe: {"return_dict": False}, 0),
    "two pictures a prompt": (lambda pipe: {"num_images_per_prompt": 2, "generator": noises(6)}, 0),
    "one generator": (lambda pipe: {"generator": noises(1)[0]}, 0),
    "pil": (lambda pipe: {"output_type": "pil"}, 0),
    "callback": (lambda pipe: {"callback_on_step_end": brighter}, 0),
    "negative prompt": (lambda pipe: {"negative_prompt": ["blurry"] * 3}, 1),
    "embeddings": (embeds, 1),
}


def pictures(output):
    images = output[0] if isinstance(output, tuple) else output.images
    return [np.asarray(image) for image in images]


def assert_unchanged(pipe, way, call, extra=0, scored=True):
    made_limits, gallery = limits(pipe, way, 1e9), Gallery()
    gallery.add([("work-1", tiny_picture(9))])  # so that given pictures are looked at
    with torch.no_grad():
        bare = pictures(pipe(**call()))
    output = Shield(pipe, gallery=gallery, thresholds=made_limits)(**call())
    assert all(np.array_equal(a, b) for a, b in zip(bare, pictures(output), strict=True))
    assert {(v.status, v.scored, v.extra_calls) for v in output.verdicts} == {("passed", scored, extra)}
    assert len(output.verdicts) == len(bare)


@every
@pytest.mark.parametrize("name", CALLS)
def test_what_a_call_is_given(way, name):
    pipe, call = made(way)
    more, extra = CALLS[name]
    assert_unchanged(pipe, way, lambda: call(**more(pipe)), extra, scored=name not in ("callback", "embeddings"))


def test_a_callback_that_turns_guidance_off_later():
    """diffusers' own cutoff exchanges the embeddings for their conditional half (for one picture only)."""
    pipe, call = made("sd")
    off = SDCFGCutoffCallback(None, 1)
    assert_unchanged(pipe, "sd", lambda: call("the cat", generator=noises(1), callback_on_step_end=off))
    pipe, call = made("sdxl")
    off = SDXLCFGCutoffCallback(None, 1)
    assert_unchanged(pipe, "sdxl", lambda: call("the cat", generator=noises(1), callback_on_step_end=off))


def in_bfloat16(pipe, folder):
    pipe.to(dtype=torch.bfloat16)


def offloaded(pipe, folder):
    pipe.enable_model_cpu_offload(device="cpu")  # the hooks and moves of an accelerator, to the CPU


def with_lora(pipe, folder):
    """A LoRA written by the pipeline's own class and read by its own loader."""
    targets = ["to_q", "to_v", "attn.to_q", "attn.to_v"]
    trained = denoiser_of(made(WAY_OF[type(pipe).__name__])[0])
    trained.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    part = "unet_lora_layers" if hasattr(pipe, "unet") else "transformer_lora_layers"
    type(pipe).save_lora_weights(folder, **{part: get_peft_model_state_dict(trained)})
    before = model_sha256(denoiser_of(pipe))
    pipe.load_lora_weights(folder)
    assert model_sha256(denoiser_of(pipe)) != before


WAY_OF = {type(made(way)[0]).__name__: way for way in ("sd", "sdxl", "sd3", "flux_true")}
PREPARED = {"bfloat16": in_bfloat16, "model_cpu_offload": offloaded, "lora": with_lora}


@pytest.mark.parametrize("way", ["sd", "sdxl", "sd3", "flux_true"])
@pytest.mark.parametrize("name", PREPARED)
def test_how_a_pipeline_was_prepared(way, name, tmp_path):
    pipe, call = made(way)
    PREPARED[name](pipe, tmp_path)
    assert_unchanged(pipe, way, call)
    flagged = Shield(pipe, thresholds=limits(pipe, way, -1.0))(**call())
    assert {v.mitigation for v in flagged.verdicts} == {"null_prompt"}
    assert all(np.isfinite(image).all() for image in flagged.images)


def compiled(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def compiled_in_place(pipe):
    pipe.unet.compile(backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize("compile_it", [compiled, compiled_in_place])
def test_a_compiled_denoiser(compile_it):
    pipe, call = made("sd")
    compile_it(pipe)
    seen = vars(pipe.unet).get("_compiled_call_impl")
    assert_unchanged(pipe, "sd", call)
    flagged = Shield(pipe, thresholds=limits(pipe, "sd", -1.0))(**call())
    assert {v.mitigation for v in flagged.verdicts} == {"null_prompt"}
    assert vars(pipe.unet).get("_compiled_call_impl") is seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="moving a model in pieces needs a CUDA device")
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload_to_a_real_accelerator(offload):
    pipe, call = made("sd")
    getattr(pipe, offload)()
    assert_unchanged(pipe, "sd", call)


def test_the_fingerprint_of_weights_that_are_moved_in_pieces():
    pipe, _ = made("sd")
    before = model_sha256(pipe.unet)
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert any(p.is_meta for p in pipe.unet.parameters()) and model_sha256(pipe.unet) == before


def test_guidance_off_in_every_family_is_unscored():
    for way in ("sd", "sdxl", "sd3", "flux"):
        pipe, call = made(way)
        policy = Policy(on_unscored="block")
        output = Shield(pipe, policy, thresholds=[], calibrate="never")(
            **call(**({} if way == "flux" else {"guidance_scale": 1.0}))
        )
        assert {(v.status, v.scored) for v in output.verdicts} == {("blocked", False)}
