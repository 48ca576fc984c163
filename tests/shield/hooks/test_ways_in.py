"""What comes into a call that nobody can look at is told by "balanced" and blocked by "strict", whatever its name."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from shield import Gallery, Shield
from shield.hooks.ways_in import ELSEWHERE, TEXTS, given, starts_low
from shield.model.families import FAMILIES
from shield.protected.turns import nearest_turned
from shield.reasons import Reason
from shield.runtime.policy import Policy
from tests.shield.calls import noises, options, thresholds
from tests.shield.runtime.test_blind_spots import assert_closed_in_strict_and_shown_in_balanced, noise
from tests.shield.test_every_family import made
from tests.tiny import tiny_scheduler, tiny_sd
from tests.tiny_families import tiny_mask, tiny_picture, tiny_sdxl, tiny_variant

LEARNED = Reason("learned_words", detail="<x1>")
PLAIN = {
    "prompt": "the cat",
    "image": None,
    "cross_attention_kwargs": {"scale": 0.5},
    "strength": 0.8,
    "kwargs": {},
    "original_size": (64, 64),
    "sigmas": [1.0, 0.5],
    "generator": noises(2),
}


def taught(pipe, *tokenizers, word="<x1>"):
    """Two vectors to a word, as textual inversion learns them."""
    for name, encoder in tokenizers:
        embedding = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
        parts = {"tokenizer": getattr(pipe, name), "text_encoder": getattr(pipe, encoder)}
        pipe.load_textual_inversion({word: embedding}, **parts)
    return pipe


def reasons(pipe, policy="balanced", gallery=None, **call):
    policy = Policy(detectors=(), retries=0, on_unverified="block" if policy == "strict" else "report")
    return [
        (v.status, v.scored, v.reasons)
        for v in Shield(pipe, policy, gallery, thresholds=[], calibrate="never")(**call).verdicts
    ]


def test_a_learned_word_is_told_of_the_image_that_has_it():
    pipe = taught(tiny_sd(), ("tokenizer", "text_encoder"))
    call = {**options(4), "prompt": ["the cat", "a <x1> cat"], "num_images_per_prompt": 2}
    bare = pipe(**call).images
    output = Shield(pipe, "strict", thresholds=thresholds(tiny_sd(), 1e9))(**{**call, "generator": noises(4)})
    assert [v.status for v in output.verdicts] == ["passed", "passed", "blocked", "blocked"]
    assert np.array_equal(output.images[:2], bare[:2]) and output.verdicts[0].reasons == ()
    assert all(v.reasons[0] == LEARNED for v in output.verdicts[2:])
    shown = Shield(pipe, "balanced", thresholds=thresholds(tiny_sd(), 1e9))(**{**call, "generator": noises(4)})
    assert np.array_equal(shown.images, bare) and [v.scored for v in shown.verdicts] == [True] * 2 + [False] * 2


@pytest.mark.parametrize("text", ["prompt", "prompt_2", "negative_prompt", "negative_prompt_2"])
def test_a_learned_word_in_any_text_of_a_call(text):
    pipe = taught(tiny_sdxl(), ("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    ((_, _, told),) = reasons(pipe, **{"prompt": "the cat", **options(1), text: "a <x1> cat"})
    assert told[0] == LEARNED
    assert reasons(pipe, **{"prompt": "the cat", **options(1), text: "a cat"}) == [("passed", True, ())]


@pytest.mark.parametrize("name", ["image", "mask_image", "control_image", "ip_adapter_image"])
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: [[p]], lambda p: np.asarray(p), lambda p: noise(1, 3, 8, 8)])
def test_a_picture_counts_as_looked_at_only_where_there_is_a_gallery(name, wrap):
    told = given({**PLAIN, name: wrap(tiny_picture())}, has_gallery=False)
    assert told == [Reason("no_gallery", detail=name)]
    assert given({**PLAIN, name: wrap(tiny_picture())}, has_gallery=True) == []


@pytest.mark.parametrize("way", ["sd_img2img", "sd_inpaint", "sd_control", "flux_img2img"])
def test_pictures_with_and_without_a_gallery(way):
    pipe, call = made(way)
    gallery = Gallery()
    gallery.add([("work-1", tiny_picture(5))])
    assert reasons(pipe, "strict", gallery, **call()) == [("passed", True, ())] * 3
    for status, scored, told in reasons(pipe, "strict", **call()):
        assert (status, scored) == ("blocked", False) and told[0].kind == "no_gallery"


def test_every_argument_that_holds_data_is_told():
    """Of all pipelines of the table: an argument that diffusers adds one day is a way in without a line here."""
    names = {n for f in FAMILIES for p in f.pipelines for n in inspect.signature(getattr(diffusers, p)).parameters}
    names |= {
        n for f in FAMILIES for p in f.pipelines for n in inspect.signature(getattr(diffusers, p).__call__).parameters
    }
    for name in names - ELSEWHERE - set(TEXTS) | {"added_one_day"}:
        told = given({"prompt": "the cat", name: noise(1, 4, 8, 8)}, has_gallery=False)
        assert len(told) == 1 and name in (told[0].detail or "prompt_embeds")
    assert given(PLAIN, False) == []


def test_arguments_of_attention():
    for inner in (
        {"gligen": {"boxes": noise(1, 4)}},
        {"ip_hidden_states": noise(1, 4)},
        {"ip_adapter_masks": [noise(2)]},
    ):
        for name in ("cross_attention_kwargs", "joint_attention_kwargs"):
            assert next(iter(inner)) in given({**PLAIN, name: inner}, True)[0].detail


class Injects(AttnProcessor):
    def __call__(self, attn, hidden_states, *args, **kwargs):
        return super().__call__(attn, hidden_states, *args, **kwargs) + 0.01


def test_an_attention_processor_of_somebody_elses(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())
    assert reasons(pipe, prompt="the cat", **options(1)) == [("passed", True, ())]
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(Injects())
    call = lambda: {"prompt": "the cat", **options(1)}  # noqa: E731
    assert_closed_in_strict_and_shown_in_balanced(pipe, call, Reason("foreign_processor", detail="Injects"))


def test_negative_embeddings_beside_a_text(pipe):
    with torch.no_grad():
        embeds = pipe.encode_prompt(["bolto"], "cpu", 1, False)[0]
    call = lambda: {"prompt": "the cat", **options(1, negative_prompt_embeds=embeds)}  # noqa: E731
    assert_closed_in_strict_and_shown_in_balanced(pipe, call, Reason("embeddings", detail="negative_prompt_embeds"))


def test_latents_for_a_start_under_less_noise():
    """Plain noise is as good as none there, so whatever was given is told."""
    pipe, call = made("flux_img2img")
    gallery = Gallery()
    gallery.add([("work-1", tiny_picture(5))])
    (_, _, told), *_ = reasons(pipe, gallery=gallery, **call(latents=noise(3, 16, 16)))
    assert told[0].kind == "latents_show"
    pipe, call = made("flux")
    assert reasons(pipe, **call(latents=noise(3, 16, 16))) == [("passed", True, ())] * 3


@pytest.mark.parametrize(
    ("scheduler", "request_", "low"),
    [
        (tiny_scheduler(), {"strength": 1.0}, False),
        (tiny_scheduler(), {"strength": 0.3}, True),
        (tiny_scheduler(), {"denoising_start": 0.8}, True),
        (tiny_scheduler(), {"timesteps": [999, 500]}, False),
        (tiny_scheduler(), {"timesteps": torch.tensor([500, 1])}, True),
        (diffusers.FlowMatchEulerDiscreteScheduler(), {"sigmas": [1.0, 0.5]}, False),
        (diffusers.FlowMatchEulerDiscreteScheduler(), {"sigmas": np.array([0.5, 0.2])}, True),
        (diffusers.EulerDiscreteScheduler(), {"sigmas": [160.0, 0.1]}, False),
        (diffusers.EulerDiscreteScheduler(), {"sigmas": [0.95, 0.1]}, True),
    ],
)
def test_which_starts_are_low(scheduler, request_, low):
    assert starts_low(request_, scheduler) == low


def test_a_callback_that_exchanges_the_masked_picture():
    pipe = tiny_variant(diffusers.StableDiffusionInpaintPipeline, "inpaint")
    gallery = Gallery()
    gallery.add([("work-1", tiny_picture(5))])

    def exchange(pipe, step, timestep, tensors):
        return {"masked_image_latents": torch.zeros_like(tensors["masked_image_latents"])}

    call = {"prompt": "the cat", **options(1), "image": tiny_picture(), "mask_image": tiny_mask(), "strength": 1.0}
    more = {"callback_on_step_end_tensor_inputs": ["masked_image_latents"], "callback_on_step_end": exchange}
    ((status, _, told),) = reasons(pipe, "strict", gallery, **call, **more)
    assert status == "blocked" and told[0] == Reason("callback", step=0, detail="masked_image_latents")
    given_ = {"masked_image_latents": noise(1, 4, 8, 8), **call, "generator": noises(1)}
    ((status, _, told),) = reasons(pipe, "strict", gallery, **given_)
    assert status == "blocked" and told[0] == Reason("numbers", detail="masked_image_latents")


@pytest.mark.parametrize("angle", [0, 4, -10, 15])
def test_a_given_picture_is_found_however_it_was_turned(angle):
    gallery = Gallery()
    gallery.add([(f"work-{seed}", tiny_picture(seed)) for seed in range(5)])
    found = nearest_turned(gallery, tiny_picture(2).rotate(angle))
    assert found.copied and found.work == "work-2"
    assert not nearest_turned(gallery, tiny_picture(9).rotate(angle)).copied
