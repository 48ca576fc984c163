"""What holds for Stable Diffusion holds for every family of the table, on tiny real pipelines."""

from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations

import diffusers
import numpy as np
import pytest
import torch

from shield import Shield
from shield.detectors import StructureGap
from shield.errors import MissingSignalError
from shield.hooks.intercept import denoiser_of, intercepted
from shield.hooks.recording import recorded
from shield.hooks.steps import observed
from shield.mitigations import MITIGATIONS, EmbeddingMix, GalleryRepulsion, NullPrompt
from shield.model.families import FAMILIES, family_of
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery
from shield.runtime.policy import Policy
from tests.shield.calls import noises, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_mask, tiny_picture, tiny_sd3, tiny_sdxl, tiny_variant
from tests.tiny_kolors import tiny_kolors
from tests.tiny_transformers import (
    tiny_auraflow,
    tiny_chroma,
    tiny_flux2dev,
    tiny_klein,
    tiny_lcm,
    tiny_pixart,
    tiny_qwenimage,
    tiny_sana,
    tiny_zimage,
)

PROMPTS = ["the cat", "a dog", "zzz by anna"]
FLUX = {"height": 64, "width": 64, "max_sequence_length": 16, "guidance_scale": 3.5}
SMALL = {"height": 64, "width": 64, "max_sequence_length": 16}
SIDE = {"height": 64, "width": 64}
TRUE_QWEN = {**SIDE, "true_cfg_scale": 3.0, "negative_prompt": [""] * 3}
GUIDED = ("guidance_scale", "true_cfg_scale", "negative_prompt")
TRUE = {**FLUX, "true_cfg_scale": 3.0, "negative_prompt": [""] * 3}
WAYS = {
    "sd": (tiny_sd, {}),
    "sdxl": (tiny_sdxl, {}),
    "sd3": (tiny_sd3, {}),
    "sd3_skip_layers": (tiny_sd3, {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0}),
    "flux": (tiny_flux, FLUX),
    "flux_true": (tiny_flux, TRUE),
    "auraflow": (tiny_auraflow, SMALL),
    "zimage": (tiny_zimage, {**SMALL, "max_sequence_length": 48}),
    "qwenimage_true": (tiny_qwenimage, {**TRUE_QWEN}),
    "qwenimage": (tiny_qwenimage, SIDE),
    "flux2": (partial(tiny_klein, seed=1), {**SMALL, "max_sequence_length": 48}),
    "chroma": (tiny_chroma, SMALL),
    "pixart": (tiny_pixart, {**SMALL, "use_resolution_binning": False}),
    "lcm": (tiny_lcm, {"guidance_scale": 5.0}),
    "flux2dev": (tiny_flux2dev, {**SMALL, "max_sequence_length": 48, "guidance_scale": 5.0}),
    "sana": (tiny_sana, {**SMALL, "use_resolution_binning": False, "complex_human_instruction": None}),
    "kolors": (tiny_kolors, {"max_sequence_length": 16}),
}
PICTURE, OTHER, MASK = tiny_picture(), tiny_picture(1), tiny_mask()
VARIANTS = {
    "img2img": ("Img2Img", "text", {"image": PICTURE, "strength": 0.8}),
    "inpaint": ("Inpaint", "inpaint", {"image": PICTURE, "mask_image": MASK, "strength": 1.0}),
    "inpaint_plain": ("Inpaint", "text", {"image": PICTURE, "mask_image": MASK, "strength": 0.8}),
    "control": ("ControlNet", "control", {"image": PICTURE}),
    "control_guess": ("ControlNet", "control", {"image": PICTURE, "guess_mode": True}),
    "control_img2img": ("ControlNetImg2Img", "control", {"image": OTHER, "control_image": PICTURE, "strength": 0.8}),
    "control_inpaint": (
        "ControlNetInpaint",
        "control",
        {"image": OTHER, "control_image": PICTURE, "mask_image": MASK, "strength": 1.0},
    ),
}
for _way, _prefix, _own, _names in (
    ("sd", "StableDiffusion", {}, VARIANTS),
    ("sdxl", "StableDiffusionXL", {}, VARIANTS),
    ("sd3", "StableDiffusion3", {}, ("img2img", "inpaint_plain")),
    ("flux", "Flux", FLUX, ("img2img", "inpaint_plain")),
    ("flux_true", "Flux", TRUE, ("img2img", "inpaint_plain")),
):
    for _name in _names:
        _task, _kind, _more = VARIANTS[_name]
        _base = getattr(diffusers, f"{_prefix}{_task}Pipeline")
        _each = {"image": [PICTURE] * 3} if _way == "sd3" else {}  # which takes one for each prompt
        WAYS[f"{_way}_{_name}"] = (partial(tiny_variant, _base, _kind), {**_own, **_more, **_each})
for _way, _make, _prefix in (
    ("zimage", tiny_zimage, "ZImage"),
    ("qwenimage", tiny_qwenimage, "QwenImage"),
    ("qwenimage_true", tiny_qwenimage, "QwenImage"),
    ("chroma", tiny_chroma, "Chroma"),
):
    # Chroma's inpainting asks its transformer for an option that no Chroma has, so it doesn't run.
    for _name in ("img2img", "inpaint_plain")[: 1 if _way == "chroma" else 2]:
        _task, _, _more = VARIANTS[_name]
        WAYS[f"{_way}_{_name}"] = (
            partial(_make, base=getattr(diffusers, f"{_prefix}{_task}Pipeline")),
            {**WAYS[_way][1], **_more},
        )
WAYS["lcm_img2img"] = (
    partial(tiny_lcm, base=diffusers.LatentConsistencyModelImg2ImgPipeline),
    {"guidance_scale": 5.0, "image": PICTURE, "strength": 0.8},
)
WAYS["kolors_img2img"] = (
    partial(tiny_kolors, base=diffusers.KolorsImg2ImgPipeline),
    {"max_sequence_length": 16, "image": PICTURE, "strength": 0.8},
)
TRANSFORMERS = ("auraflow", "zimage", "qwenimage", "chroma", "pixart", "sana")
every = pytest.mark.parametrize("way", WAYS)
# One of each mechanism: layouts, pooled embeddings, packed latents, nine channels, a companion.
of_each_kind = pytest.mark.parametrize("way", [*list(WAYS)[:7], "sd_inpaint", "sdxl_control"])


def made(way):
    build, more = WAYS[way]
    pipe, small = build(), {"num_inference_steps": 3, "output_type": "np"}
    return pipe, lambda prompts=PROMPTS, **o: {
        "prompt": list(prompts) if isinstance(prompts, tuple | list) else prompts,
        **small,
        **more,
        "generator": noises(3),
        **o,
    }


once = cache(made)  # a shielded call leaves its pipeline as it was, so the next test can have it


@cache
def flagging(way):
    """Thresholds that flag one prompt alone, its row, and the bare pipeline's pictures."""
    pipe, call = once(way)
    return *split_by(pipe, way, call()), pipe(**call()).images


def limits(pipe, way, value):
    return thresholds(pipe, value, (StructureGap(),), {k: v for k, v in WAYS[way][1].items() if k not in GUIDED})


def distilled(way):
    """Whether guidance is no second prediction, by the pipeline or because no negative prompt is given."""
    return way.split("_")[0] in ("flux", "flux2dev", "qwenimage", "lcm") and "true" not in way


def policy(way, **more):
    return Policy(**more)


def scores(pipe, call):
    with torch.no_grad(), recorded(pipe, StructureGap().needs, 1, stop=True, extra_uncond=True) as trace:
        pipe(**call)
    return StructureGap().score(trace)


def split_by(pipe, way, call, tests=PROMPTS):
    """Thresholds that flag the highest-scoring prompt alone, and its row."""
    values = scores(pipe, call)
    low, high = values.sort().values[-2:].tolist()
    assert high > 1.002 * low, "the tiny model must tell these prompts apart"
    return limits(pipe, way, (low + high) / 2), int(values.argmax())


def equal_rows(bare, shielded):
    return [np.array_equal(a, b) for a, b in zip(bare, shielded, strict=True)]


def test_every_family_is_tried():
    assert {f.name for f in FAMILIES} == {way.split("_")[0] for way in WAYS}
    assert {p for f in FAMILIES for p in f.pipelines} == {type(once(way)[0]).__name__ for way in WAYS}


@every
def test_nothing_flagged_is_bit_equal(way):
    pipe, call = once(way)
    calls, made_thresholds, bare = [], limits(pipe, way, 1e9), flagging(way)[2]
    handle = denoiser_of(pipe).register_forward_hook(lambda *_: calls.append(1))
    pipe(**call())
    bare_calls = len(calls)
    result = Shield(pipe, policy(way), thresholds=made_thresholds)(**call())
    handle.remove()
    assert np.array_equal(bare, result.images)
    assert len(calls) - 2 * bare_calls == distilled(way)
    assert [v.extra_calls for v in result.verdicts] == [distilled(way)] * 3


@every
def test_a_flagged_row_gets_the_picture_of_no_prompt_and_the_others_stay_bit_equal(way):
    """Pins the layout: which rows are whose, and that pooled embeddings and the companion go along."""
    pipe, call = once(way)
    made_thresholds, row, bare = flagging(way)
    result = Shield(pipe, policy(way, mitigations=(NullPrompt(),)), thresholds=made_thresholds)(**call())
    assert equal_rows(bare, result.images) == [i != row for i in range(3)]
    assert [v.status for v in result.verdicts] == ["mitigated" if i == row else "passed" for i in range(3)]
    if way.endswith("guess"):
        return  # in guess mode the unconditional half, which stands in at the first step, knows no ControlNet
    if way.startswith("sdxl"):
        zeros = torch.zeros(3, 16, 32), torch.zeros(3, 16)
        empty = pipe(
            **call(
                None,
                prompt_embeds=zeros[0],
                pooled_prompt_embeds=zeros[1],
                negative_prompt_embeds=zeros[0],
                negative_pooled_prompt_embeds=zeros[1],
            )
        ).images
    else:
        empty = pipe(**call([""] * 3)).images
    assert np.allclose(empty[row], result.images[row], atol=2e-3)
    assert not np.allclose(bare[row], result.images[row], atol=2e-3)


@pytest.mark.usefixtures("no_memory_stays")
@every
def test_the_swap_gives_the_rewritten_prompts_picture(way):
    """The seam between the flagged step, which is predicted anew, and the later ones, whose inputs are swapped."""
    pipe, call = once(way)
    made_thresholds, row, _ = flagging(way)
    substitute = weakest(way)
    swapped = policy(way, mitigations=(EmbeddingMix(),), rewriters=(Always(substitute),), extra_calls=9)
    result = Shield(pipe, swapped, thresholds=made_thresholds)(**call())
    assert result.verdicts[row].status == "mitigated" and result.verdicts[row].rewritten_prompt == substitute
    prompts = [substitute if i == row else p for i, p in enumerate(PROMPTS)]
    assert np.allclose(pipe(**call(prompts)).images, result.images, atol=2e-3)


SUBSTITUTES = ("a dog", "zz", "anna", "a", "one two", "b", "a hat")


@cache
def weakest(way):
    """Which of SUBSTITUTES pulls least on the flagged row's noise."""
    pipe, call = once(way)
    row = flagging(way)[1]
    return min(SUBSTITUTES, key=lambda text: scores(pipe, call([text] * 3))[row])


@dataclass
class Always:
    said: str
    name = "always"
    needs_weights = False

    def propose(self, prompt, concepts, weights=()):
        return [self.said]


def lacks(name, way):
    """Whether a mitigation needs what this way doesn't have; there the next one of the policy has to take over."""
    of_unets = name in ("attention_damp", "attract_repel") and way.startswith(("sd3", "flux", *TRANSFORMERS))
    guided = name in ("embedding_descent", "initial_noise", "opposite_guidance") and distilled(way)
    return of_unets or guided


@pytest.mark.parametrize("way", ["flux_true", "chroma", "qwenimage_true"])
def test_an_edit_after_the_conditional_half_has_left_is_the_guidance_formula_with_the_other_prediction(way):
    """c' = (c + u) / 2 for one row: what the scheduler is given is computed by hand, with Qwen-Image's norm."""
    pipe, call = once(way)
    family, seen, given = family_of(pipe), {}, []

    def halve(forward):
        if forward.noise_uncond is None:
            return None
        seen.update(cond=forward.noise_cond.clone(), uncond=forward.noise_uncond.clone())
        seen["changed"] = forward.noise_cond.clone()
        seen["changed"][1] = (forward.noise_cond[1] + forward.noise_uncond[1]) / 2
        return seen["changed"]

    scale = 3.0 if "true_cfg_scale" in WAYS[way][1] else 5.0
    with (
        torch.no_grad(),
        observed(pipe.scheduler, "step", lambda *_: None, lambda args, kwargs: given.append(args[0])),
        intercepted(pipe, halve, guidance=scale),
    ):
        pipe(**call(num_inference_steps=1))
    wanted = seen["uncond"] + scale * (seen["changed"] - seen["uncond"])
    if family.renormalized:
        wanted *= seen["changed"].norm(dim=-1, keepdim=True) / wanted.norm(dim=-1, keepdim=True)
    assert torch.allclose(given[0], wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen["changed"], seen["cond"], atol=1e-3)


@of_each_kind
def test_every_mitigation_works_on_every_family(way):
    """The screen flags one row: no detector stands between a mitigation and its picture."""
    pipe, call = once(way)
    bare, pictures, gallery = pipe(**call()).images, {}, Gallery()
    gallery.add([("another work", tiny_picture(7))])
    for name in MITIGATIONS:
        one = EAGER.get(name, MITIGATIONS[name]())
        used = policy(way, detectors=(), mitigations=(one, NullPrompt()), rewriters=(Always("a dog"),))
        result = Shield(pipe, used, gallery, concepts=Concepts([Concept("anna")]), thresholds=[], calibrate="never")(
            **call()
        )
        assert equal_rows(bare, result.images) == [True, True, False], name
        assert result.verdicts[2].mitigation == ("null_prompt" if lacks(name, way) else name), name
        assert np.isfinite(result.images).all(), name
        pictures[name] = result.images[2]
    own = [name for name in MITIGATIONS if not lacks(name, way)]
    assert not [pair for pair in combinations(own, 2) if np.array_equal(*(pictures[name] for name in pair))]


# A random model's pictures are like nothing, so that the default limit leaves them as they are.
EAGER = {"gallery_repulsion": GalleryRepulsion(limit=-0.5)}


def test_distilled_guidance_is_unscored_without_an_extra_call():
    pipe, call = once("flux")
    with pytest.raises(MissingSignalError, match="extra_uncond"):
        Shield(pipe, Policy(extra_uncond=False), thresholds=thresholds(pipe, 1e9))(**call())


@pytest.mark.parametrize("way", ["sdxl", "sd3", "flux_true"])
def test_a_negative_prompt_does_not_hide_the_gap(way):
    pipe, call = once(way)
    shield = Shield(pipe, policy(way), thresholds=thresholds(pipe, 1e9))
    plain = shield(**call())
    hidden = shield(**call(negative_prompt=PROMPTS))
    for a, b in zip(plain.verdicts, hidden.verdicts, strict=True):
        assert b.scores[0].value == pytest.approx(a.scores[0].value, rel=1e-2) and b.extra_calls == 1
