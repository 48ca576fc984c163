from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from PIL import Image

from shield import Gallery, Shield
from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError, MissingSignalError, NotCalibratedError, UnsupportedPipelineError
from shield.mitigations import EmbeddingMix, NullPrompt, OppositeGuidance
from shield.protected.concepts import Concept, Concepts
from shield.runtime.policy import Policy, preset
from tests.shield.calls import PROMPTS, STEPS, counted, noises, options, state, thresholds
from tests.tiny import tiny_sd

FLAGGED = "the cat, a picture by anna"  # scores .08; PROMPTS score at most .03
BETWEEN = 0.05


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"num_images_per_prompt": 2, "generator": None},
        {"output_type": "latent"},
        {"output_type": "pt"},
        {"output_type": "pil"},
        {"negative_prompt": [""] * 4},
        {"guidance_rescale": 0.5},
        {"eta": 0.7},
        {"return_dict": False},
        {"callback_on_step_end": lambda pipe, i, t, kwargs: {"latents": kwargs["latents"] * 1.01}},
    ],
    ids=lambda more: next(iter(more), "plain"),
)
def test_nothing_flagged_is_bit_equal_without_an_extra_call(any_pipe, more):
    shield = Shield(any_pipe, thresholds=thresholds(any_pipe, 1e9))
    call = options(4, **more)
    if "generator" in more:
        call["generator"] = noises(8)
    bare, bare_rows = counted(any_pipe, lambda: any_pipe(PROMPTS, **call))
    again = noises(len(call["generator"]))
    result, rows = counted(any_pipe, lambda: shield(PROMPTS, **{**call, "generator": again}))
    assert rows == bare_rows and len(rows) == STEPS
    images, expected = (r[0] if isinstance(r, tuple) else r.images for r in (result, bare))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(images, expected, strict=True))
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(again, call["generator"], strict=True))
    assert {v.status for v in result.verdicts} == {"passed"} and {v.extra_calls for v in result.verdicts} == {0}
    assert [v.prompt for v in result.verdicts[::2]] == (PROMPTS if len(images) == 8 else PROMPTS[::2])


def test_prompt_embeds_and_positional_prompt_and_single_text(pipe):
    shield = Shield(pipe, thresholds=thresholds(pipe, 1e9))
    embeds, null = (pipe.encode_prompt(p, "cpu", 1, False)[0] for p in (PROMPTS[:2], ["", ""]))
    by_embeds = shield(prompt_embeds=embeds, negative_prompt_embeds=null, **options(2))
    assert np.array_equal(by_embeds.images, pipe(PROMPTS[:2], **options(2)).images)
    assert [v.prompt for v in by_embeds.verdicts] == [None, None]
    by_text = shield("the cat", **options(1)).verdicts[0].scores[0].value
    assert by_embeds.verdicts[0].scores[0].value == pytest.approx(by_text, rel=1e-4)  # other batch size


def test_output_is_the_pipelines_own_class(pipe):
    shield = Shield(pipe, thresholds=thresholds(pipe, 1e9))
    result = shield("the cat", **options(1))
    assert type(result) is StableDiffusionPipelineOutput and list(result.keys()) == ["images"]
    images, nsfw = shield("the cat", **options(1, return_dict=False))
    assert nsfw is None and images.shape == (1, 64, 64, 3)


def test_in_a_batch_of_eight_one_flagged_prompt_changes_nothing_for_the_seven_others(pipe):
    prompts = [*PROMPTS, FLAGGED, *PROMPTS[:3]]
    bare = pipe(prompts, **options(8)).images
    result = Shield(pipe, thresholds=thresholds(pipe, BETWEEN))(prompts, **options(8))
    equal = [np.array_equal(a, b) for a, b in zip(bare, result.images, strict=True)]
    assert equal == [True] * 4 + [False] + [True] * 3
    assert [v.status for v in result.verdicts] == ["passed"] * 4 + ["mitigated"] + ["passed"] * 3
    assert [v.index for v in result.verdicts] == list(range(8))


@pytest.mark.usefixtures("no_memory_stays")
def test_a_rewrite_counts_only_when_the_detectors_pass_it(pipe):
    """With a threshold between the original's and a shorter prompt's score, the shorter one's picture comes out."""
    made = thresholds(pipe, BETWEEN)
    result = Shield(pipe, thresholds=made)(FLAGGED, **options(1))
    verdict = result.verdicts[0]
    assert verdict.mitigation == "embedding_mix" and verdict.rewritten_prompt
    own = Shield(pipe, thresholds=made)(verdict.rewritten_prompt, **options(1))
    assert own.verdicts[0].status == "passed"
    assert np.allclose(own.images, result.images, atol=1e-4)


def test_when_no_rewrite_passes_the_picture_is_the_empty_prompts(pipe):
    result = Shield(pipe, thresholds=thresholds(pipe, 1e-3))(FLAGGED, **options(1))
    verdict = result.verdicts[0]
    assert (verdict.status, verdict.mitigation, verdict.rewritten_prompt) == ("mitigated", "null_prompt", None)
    assert np.allclose(result.images, pipe("", **options(1)).images, atol=1e-4)
    assert 0 < verdict.extra_calls <= Policy().extra_calls


def test_the_budget_of_extra_calls_is_kept(pipe):
    shield = Shield(pipe, Policy(extra_calls=1), thresholds=thresholds(pipe, 1e-3))
    result, rows = counted(pipe, lambda: shield(FLAGGED, **options(1)))
    assert result.verdicts[0].extra_calls == 1 and len(rows) == STEPS + 1


def test_null_prompt_is_free(pipe):
    shield = Shield(pipe, Policy(mitigations=(NullPrompt(),)), thresholds=thresholds(pipe, 1e-3))
    result, rows = counted(pipe, lambda: shield(FLAGGED, **options(1)))
    assert result.verdicts[0].extra_calls == 0 and len(rows) == STEPS


def test_blocked_pictures_are_gray_and_never_the_models(pipe):
    for policy in (Policy(on_flag="block"), Policy(mitigations=(EmbeddingMix(),), extra_calls=0)):
        result = Shield(pipe, policy, thresholds=thresholds(pipe, BETWEEN))([FLAGGED, *PROMPTS[1:]], **options(4))
        assert [v.status for v in result.verdicts] == ["blocked", "passed", "passed", "passed"]
        assert (result.images[0] == 0.5).all()
        assert np.array_equal(result.images[1:], pipe([FLAGGED, *PROMPTS[1:]], **options(4)).images[1:])


def test_monitor_reports_and_changes_nothing(pipe):
    policy = replace(preset("monitor"), on_copy="report")
    gallery = Gallery()
    bare = pipe(FLAGGED, **options(1, output_type="pil")).images[0]
    gallery.add([("work-1", bare)])
    shield = Shield(pipe, policy, gallery, thresholds=thresholds(pipe, BETWEEN))
    result = shield(FLAGGED, **options(1, output_type="pil"))
    assert np.array_equal(np.asarray(result.images[0]), np.asarray(bare))
    verdict = result.verdicts[0]
    assert verdict.status == "passed" and verdict.nearest.work == "work-1" and len(verdict.reasons) == 2


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_a_finished_copy_of_a_protected_picture_is_blocked(pipe, output_type):
    gallery = Gallery()
    gallery.add([("work-1", pipe("the cat", **options(1, output_type="pil")).images[0])])
    shield = Shield(pipe, gallery=gallery, thresholds=thresholds(pipe, 1e9))
    result = shield(PROMPTS, **options(4, output_type=output_type))
    assert [v.status for v in result.verdicts] == ["blocked", "passed", "passed", "passed"]
    assert (
        str(result.verdicts[0].reasons[0]).startswith("the picture copies work-1 (")
        and result.verdicts[0].nearest.copied
    )
    bare = pipe(PROMPTS, **options(4, output_type=output_type)).images
    equal = [np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(bare, result.images, strict=True)]
    assert equal == [False, True, True, True]
    assert len(set(np.asarray(result.images[0]).ravel().tolist())) == 1


@pytest.mark.parametrize("negative", ["the cat", "blurry"])
def test_a_negative_prompt_does_not_hide_the_gap(pipe, negative):
    """A negative prompt equal to the prompt makes the pipeline's own gap zero; the score must not follow it."""
    shield = Shield(pipe, thresholds=thresholds(pipe, 1e9))
    plain = shield("the cat", **options(1)).verdicts[0]
    hidden = shield("the cat", negative_prompt=negative, **options(1)).verdicts[0]
    assert hidden.scores[0].value == pytest.approx(plain.scores[0].value, rel=1e-3)
    assert (plain.extra_calls, hidden.extra_calls) == (0, 1)
    bare = pipe("the cat", negative_prompt=negative, **options(1)).images
    assert np.array_equal(bare, shield("the cat", negative_prompt=negative, **options(1)).images)


def test_guidance_off_costs_an_extra_call_and_is_closed_where_none_is_allowed(pipe):
    made = thresholds(pipe, 1e9)
    with pytest.raises(MissingSignalError, match="guidance is off"):
        Shield(pipe, Policy(extra_uncond=False), thresholds=made)("the cat", **options(1, guidance_scale=1.0))
    closed = Policy(on_unscored="block", extra_uncond=False)
    blocked = Shield(pipe, closed, thresholds=made)("the cat", **options(1, guidance_scale=1.0))
    assert blocked.verdicts[0].status == "blocked" and not blocked.verdicts[0].scored
    judged = Shield(pipe, thresholds=made)("the cat", **options(1, guidance_scale=1.0))
    assert judged.verdicts[0].status == "passed" and judged.verdicts[0].extra_calls == 1
    assert np.array_equal(judged.images, pipe("the cat", **options(1, guidance_scale=1.0)).images)
    guided = Shield(pipe, thresholds=made)("the cat", **options(1)).verdicts[0].scores[0].value
    assert judged.verdicts[0].scores[0].value == pytest.approx(guided, rel=1e-3)


@pytest.mark.usefixtures("no_memory_stays")
def test_guidance_off_and_flagged(pipe):
    shield = Shield(pipe, "strict", thresholds=thresholds(pipe, BETWEEN))
    result = shield([FLAGGED, *PROMPTS[1:]], **options(4, guidance_scale=1.0))
    assert [v.status for v in result.verdicts] == ["mitigated", "passed", "passed", "passed"]
    bare = pipe([FLAGGED, *PROMPTS[1:]], **options(4, guidance_scale=1.0)).images
    assert [np.array_equal(a, b) for a, b in zip(bare, result.images, strict=True)] == [False, True, True, True]


def test_uncalibrated_checkpoints_settings_and_detectors_are_refused(pipe):
    made = thresholds(pipe)
    for refused in (
        lambda: Shield(pipe, thresholds=[], calibrate="never"),
        lambda: Shield(tiny_sd(seed=1), thresholds=made, calibrate="never"),
        lambda: Shield(pipe, Policy(detectors=(NoiseGap(),)), thresholds=made, calibrate="never"),
    ):
        with pytest.raises(NotCalibratedError, match="diffshield calibrate"):
            refused()
    with pytest.raises(NotCalibratedError, match="latents of"):
        Shield(pipe, thresholds=made, calibrate="never")("the cat", height=128, width=64, **options(1))


def test_weights_changed_after_wrapping_are_noticed(pipe):
    shield = Shield(pipe, thresholds=thresholds(pipe), calibrate="never")
    shield("the cat", **options(1))
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.5)
    with pytest.raises(NotCalibratedError):
        shield("the cat", **options(1))


def test_unscored_passes_only_visibly(pipe):
    verdict = Shield(pipe, Policy(on_unscored="pass"), thresholds=[], calibrate="never")(
        "the cat", **options(1)
    ).verdicts[0]
    assert verdict.status == "passed" and not verdict.scored and verdict.scores[0].threshold is None
    assert verdict.scores[0].value > 0 and verdict.reasons[0].kind == "unscored"
    blocked = Shield(pipe, Policy(on_unscored="block"), thresholds=[], calibrate="never")("the cat", **options(1))
    assert blocked.verdicts[0].status == "blocked" and (blocked.images == 0.5).all()


def test_nan_latents_are_never_passed(pipe):
    latents = torch.full((1, 4, 8, 8), float("nan"))
    made = thresholds(pipe)
    with pytest.raises(MissingSignalError, match="NaN"):
        Shield(pipe, thresholds=made)("the cat", latents=latents, **options())
    blocked = Shield(pipe, "strict", thresholds=made)("the cat", latents=latents, **options())
    assert blocked.verdicts[0].status == "blocked" and (blocked.images == 0.5).all()


@pytest.mark.parametrize("prompt", [3, None, [], ["a", 3], b"cat"])
def test_prompts_of_a_wrong_type_are_one_sentence(pipe, prompt):
    with pytest.raises(BadRequestError, match="prompt is a text|needs a prompt"):
        Shield(pipe, thresholds=thresholds(pipe))(prompt, **options(1))


@pytest.mark.parametrize("prompt, scored", [("", False), ("cat " * 2500, True), ("\u202e\x00", True)])
def test_odd_prompts_work(pipe, prompt, scored):
    """An empty prompt's gap is zero whatever the model draws, so nothing is said about it."""
    assert Shield(pipe, thresholds=thresholds(pipe, 1e9))(prompt, **options(1)).verdicts[0].scored is scored


def test_too_many_arguments_and_unknown_pipelines(pipe):
    with pytest.raises(BadRequestError, match="too many"):
        Shield(pipe, thresholds=thresholds(pipe))(*["cat"] * 99)
    with pytest.raises(UnsupportedPipelineError, match="StableDiffusionPipeline"):
        Shield(object())


@pytest.mark.parametrize("mitigations", [(EmbeddingMix(), NullPrompt()), (OppositeGuidance(),)])
def test_an_exception_inside_leaves_everything_as_it_was(pipe, mitigations):
    shield = Shield(pipe, Policy(mitigations=mitigations), thresholds=thresholds(pipe, BETWEEN))
    pipe("the cat", **options(1, num_inference_steps=7))
    before, generators = state(pipe), noises(4)
    kept = [g.get_state() for g in generators]

    def broken(pipe, i, t, kwargs):
        if i == 1:
            raise RuntimeError("from a callback")
        return {}

    with pytest.raises(RuntimeError, match="from a callback"):
        shield([FLAGGED, *PROMPTS[1:]], callback_on_step_end=broken, generator=generators, **options(eta=0.5))
    assert state(pipe) == before
    assert all(torch.equal(g.get_state(), k) for g, k in zip(generators, kept, strict=True))


def test_several_detectors_any_of_which_flags(pipe):
    both = Policy(detectors=(NoiseGap(), StructureGap(first_k=2)))
    made = thresholds(pipe, 1e9, both.detectors)
    low = [t if t.detector == "noise_gap" else replace(t, value=0.05) for t in made]
    bare = pipe([FLAGGED, *PROMPTS[1:]], **options(4)).images
    result = Shield(pipe, both, thresholds=low)([FLAGGED, *PROMPTS[1:]], **options(4))
    assert [v.status for v in result.verdicts] == ["mitigated", "passed", "passed", "passed"]
    assert [(s.detector, s.step) for s in result.verdicts[0].scores] == [("noise_gap", 0), ("structure_gap", 1)]
    assert np.array_equal(bare[1:], result.images[1:])


def test_pil_output_keeps_pil(pipe):
    shield = Shield(pipe, Policy(on_flag="block"), thresholds=thresholds(pipe, 0.0))
    result = shield("cat", **options(1, output_type="pil"))
    assert isinstance(result.images[0], Image.Image) and result.images[0].size == (64, 64)


SCREEN = Concepts([Concept("Bolto", substitute="a dog"), Concept("Drazzik")])


def test_a_protected_concept_in_the_prompt_is_rewritten_from_the_first_step(pipe):
    """The substitute stands in the prompt's place at every step; the other row of the batch isn't touched."""
    shield = Shield(pipe, concepts=SCREEN, thresholds=thresholds(pipe, 1e9))
    result = shield(["b0lto", "the cat"], **options(2))
    first, second = result.verdicts
    assert (first.status, first.rewritten_prompt, first.concepts) == ("mitigated", "a dog", ("Bolto",))
    assert second.status == "passed" and second.concepts == ()
    want = pipe(["a dog", "the cat"], **options(2)).images
    assert np.allclose(result.images, want, atol=1e-4) and np.array_equal(result.images[1], want[1])


def test_a_concept_without_a_usable_substitute_ends_with_the_empty_prompt(pipe):
    result = Shield(pipe, concepts=SCREEN, thresholds=thresholds(pipe, 1e9))("drazzik", **options(1))
    assert result.verdicts[0].mitigation == "null_prompt"
    assert np.allclose(result.images, pipe("", **options(1)).images, atol=1e-4)


def test_a_substitute_that_the_screen_refuses_is_not_used(pipe):
    bad = Concepts([Concept("Bolto", substitute="Drazzik"), Concept("Drazzik", substitute="Bolto")])
    verdict = Shield(pipe, concepts=bad, thresholds=thresholds(pipe, 1e9))("bolto", **options(1)).verdicts[0]
    assert verdict.mitigation == "null_prompt"


def test_a_screen_alone_needs_no_calibration(pipe):
    shield = Shield(pipe, Policy(detectors=(), on_flag="block"), concepts=SCREEN, thresholds=[], calibrate="never")
    call = {"prompt": ["bolto", "the cat"], "num_images_per_prompt": 2}
    result = shield(**call, **options(4))
    assert [v.status for v in result.verdicts] == ["blocked", "blocked", "passed", "passed"]
    assert np.array_equal(result.images[2:], pipe(**call, **options(4)).images[2:])
