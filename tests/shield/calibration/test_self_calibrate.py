"""Self-calibration: one denoiser evaluation a prompt, the setting of the user's call, and nothing changed by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from probes.runs.cost import counted
from shield import Shield
from shield.benign.prompts import benign_prompts, digest_of
from shield.calibration.detectors import NegativeSampling, scored
from shield.calibration.self_calibrate import FEWEST, Progress, self_calibrate
from shield.calibration.setting_call import NOISE, call_arguments, foretold_setting
from shield.detectors import Anisotropy, NoiseGap, Sharpness, StructureGap
from shield.errors import BadRequestError
from shield.hooks.intercept import denoiser_of
from shield.mitigations import EmbeddingDescent
from shield.runtime.policy import Policy
from shield.runtime.settings import Models
from shield.thresholds import options_of
from tests.shield.calls import noises, state
from tests.shield.test_every_family import WAYS
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_sdxl

PROMPTS = benign_prompts(n=6)
BOTH = [StructureGap(), NoiseGap()]


def call_of(more):
    """Arguments of a user's call of one of test_every_family's ways, for one prompt."""
    one = {
        name: value[:1] if isinstance(value, list) and name != "skip_guidance_layers" else value
        for name, value in more.items()
    }
    return {"num_inference_steps": 3, **({} if "guidance_scale" in one else {"guidance_scale": 5.0}), **one}


def picture(pipe, call):
    """The pixels of a call on a fixed noise."""
    return pipe(prompt="a cat", generator=noises(1, 7), output_type="np", **call).images


FAST = (
    "sd",
    "sdxl",
    "sd3_skip_layers",
    "flux",
    "flux_true",
    "sd_inpaint",
    "sdxl_control",
    "sd_control_guess",
    "sd3_img2img",
)


@pytest.mark.parametrize("way", [way if way in FAST else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def test_every_family_at_one_evaluation_a_prompt(way):
    make, more = WAYS[way]
    pipe, call = make(), call_of(more)
    before = picture(pipe, call)
    known = state(pipe)
    ran = []
    hook = denoiser_of(pipe).register_forward_hook(lambda *_: ran.append(1))
    foretold = foretold_setting(pipe, call_arguments(call))
    hook.remove()
    with counted(denoiser_of(pipe)) as cost:
        made = self_calibrate(
            pipe, BOTH, call_arguments(call), prompts=PROMPTS, noises=2, batch_size=2, fpr=0.15, models=Models("x")
        )
    assert ran == []
    assert cost.evaluations == made[0].provenance["evaluations"] == (12 if "guess_mode" in more else 6 + 2)
    assert state(pipe) == known
    assert np.array_equal(picture(pipe, call), before)
    named = replace(foretold, model_sha256="x", conditioning_sha256=None)
    assert [threshold.setting for threshold in made] == [named] * 2
    true = [replace(t, setting=foretold, value=1e9) for t in made]
    guarded = Shield(pipe, Policy(detectors=tuple(BOTH), extra_uncond=True), thresholds=true)
    output = guarded(prompt="a cat", generator=noises(1, 7), output_type="np", **call)
    assert [(score.threshold, score.flagged) for score in output.verdicts[0].scores] == [(1e9, False)] * 2
    assert np.array_equal(output.images, before)


def test_scores_are_those_of_the_guided_call(any_pipe):
    """The whole path agrees with the calibration that runs guidance, on the same prompts and noise."""
    made = self_calibrate(any_pipe, BOTH, {"num_inference_steps": 3}, prompts=PROMPTS, noises=1, fpr=0.15)
    slow, setting = scored(any_pipe, BOTH, PROMPTS, [NOISE], NegativeSampling(3, 7.5, 6))
    for threshold in made:
        assert threshold.value == pytest.approx(max(slow[threshold.detector]), rel=2e-5)
        assert threshold.setting == setting and threshold.options == options_of(BOTH[made.index(threshold)])


def test_detectors_of_later_steps_see_the_guided_ones(pipe):
    """And those that ask about the first step get their answers: 2 extra rows a prompt each way for late."""
    later, asking = StructureGap(first_k=2), Sharpness()
    with counted(pipe.unet) as cost:
        made = self_calibrate(pipe, [later], {"num_inference_steps": 3}, prompts=PROMPTS, noises=1, fpr=0.15)
    assert cost.evaluations == 2 * 2 * len(PROMPTS)
    slow, setting = scored(pipe, [later], PROMPTS, [NOISE], NegativeSampling(3, 7.5, 6))
    assert made[0].value == pytest.approx(max(slow["structure_gap"]), rel=2e-5) and made[0].setting == setting
    assert foretold_setting(pipe, {"num_inference_steps": 3}, 2) == setting
    for detector in (asking, Anisotropy()):
        made = self_calibrate(pipe, [detector], {"num_inference_steps": 3}, prompts=PROMPTS, noises=1, fpr=0.15)
        slow, _ = scored(pipe, [detector], PROMPTS, [NOISE], NegativeSampling(3, 7.5, 6))
        assert made[0].value == pytest.approx(max(slow[detector.name]), rel=2e-4)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_with_guidance_off_as_turbo_models_have_it(guidance, steps):
    pipe = tiny_sdxl()
    call = {"num_inference_steps": steps, "guidance_scale": guidance}
    made = self_calibrate(pipe, BOTH, call, prompts=PROMPTS, noises=3, batch_size=2, fpr=0.15)
    assert made[0].provenance["evaluations"] == 6 + 3
    output = Shield(pipe, Policy(extra_uncond=True, on_flag="report"), thresholds=made)("a cat", **call)
    assert output.verdicts[0].scores[0].threshold == made[0].value


def test_flux_without_distilled_guidance():
    pipe, call = tiny_flux(guidance_embeds=False), {"height": 64, "width": 128, "max_sequence_length": 16}
    made = self_calibrate(pipe, [NoiseGap()], call, prompts=PROMPTS, noises=2, batch_size=3, fpr=0.15)
    assert made[0].setting.latent_shape == (32, 16) and made[0].setting.distilled_guidance is None
    assert made[0].provenance["evaluations"] == 6 + 2


def test_provenance_says_what_was_done(pipe):
    told = []
    made = self_calibrate(pipe, BOTH, {"num_inference_steps": 3}, fpr=0.1, model="tiny", progress=told.append)[0]
    assert (made.fpr, made.negatives, made.model) == (0.1, 19, "tiny")
    about = made.provenance
    assert about["prompts"] == 19 and about["prompts_sha256"] == digest_of(benign_prompts(n=19))
    assert about["seeds"] == list(range(NOISE, NOISE + 5)) and about["evaluations"] == 19 + 5
    assert about["wanted_fpr"] == 0.1 and about["seconds"] > 0 and about["source"].startswith("benign prompts")
    assert [one.done for one in told] == [4, 8, 12, 16, 19] and {one.total for one in told} == {19}
    assert told[-1].remaining == 0 and Progress(10, 40, 5.0).remaining == pytest.approx(15.0)


def test_out_of_time_the_threshold_stands_for_a_larger_rate(pipe):
    told = []
    made = self_calibrate(pipe, BOTH, {"num_inference_steps": 3}, seconds=1e-9, batch_size=1, progress=told.append)[0]
    assert made.negatives == FEWEST == told[-1].done == told[-1].total
    assert made.fpr == 1 / (FEWEST + 1) and made.provenance["wanted_fpr"] == 0.01


def test_a_batch_that_does_not_fit_is_halved(pipe):
    def refuse(module, args, kwargs):
        if len(args[0] if args else kwargs["sample"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    whole = self_calibrate(pipe, BOTH, {"num_inference_steps": 3}, prompts=PROMPTS, noises=1, batch_size=6, fpr=0.15)
    hook = pipe.unet.register_forward_pre_hook(refuse, with_kwargs=True)
    told = []
    try:
        options = {"prompts": PROMPTS, "noises": 1, "fpr": 0.15}
        small = self_calibrate(pipe, BOTH, {"num_inference_steps": 3}, batch_size=6, progress=told.append, **options)
    finally:
        hook.remove()
    assert [one.done for one in told] == [1, 2, 3, 4, 5, 6]
    assert [t.value for t in small] == pytest.approx([t.value for t in whole], rel=2e-5)


def test_an_error_leaves_the_pipeline_as_it_was(pipe):
    before, known = picture(pipe, {"num_inference_steps": 3}), state(pipe)
    own = dict(vars(pipe))

    def fail(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        self_calibrate(pipe, BOTH, {"num_inference_steps": 5}, prompts=PROMPTS, progress=fail)
    assert state(pipe) == known and vars(pipe) == own
    assert np.array_equal(picture(pipe, {"num_inference_steps": 3}), before)


def test_gradients_flow_afterwards(pipe):
    """Nothing that was made in inference mode stays in the pipeline: a mitigation by gradients still works."""
    call = {"num_inference_steps": 3, "guidance_scale": 5.0}
    made = self_calibrate(pipe, [StructureGap()], call, prompts=PROMPTS, fpr=0.15)
    flagging = [replace(one, value=-1.0) for one in made]
    guarded = Shield(pipe, Policy(mitigations=(EmbeddingDescent(),)), thresholds=flagging)
    assert guarded(prompt="a cat", **call).verdicts[0].reasons[-1].kind == "exhausted"
    passing = Shield(pipe, Policy(mitigations=(EmbeddingDescent(),), on_flag="mitigate"), thresholds=made)
    assert passing("a cat", **call).verdicts[0].scored


def test_what_of_a_call_moves_a_score():
    request = {
        "prompt": "a",
        "prompt_2": None,
        "negative_prompt": "b",
        "generator": 1,
        "latents": 2,
        "output_type": "np",
        "num_images_per_prompt": 2,
        "callback_on_step_end": None,
        "return_dict": True,
        "image": [3, 4],
        "strength": 0.5,
        "height": None,
        "num_inference_steps": 7,
        "mask_image": torch.zeros(2, 1, 8, 8),
    }
    kept = call_arguments(request)
    assert kept.keys() == {"image", "strength", "num_inference_steps", "mask_image"}
    assert kept["image"] == 3 and kept["mask_image"].shape == (1, 1, 8, 8)


def test_nothing_to_do_is_refused(pipe):
    for wrong in ({"prompts": []}, {"noises": 0}):
        with pytest.raises(BadRequestError, match="one of each is needed"):
            self_calibrate(pipe, BOTH, **wrong)
    with pytest.raises(BadRequestError, match="0 detectors"):
        self_calibrate(pipe, [])


def test_a_service_calibrates_without_a_users_picture():
    """Smooth colors stand for the picture; sizes and strengths are those that are asked for."""
    make, _ = WAYS["sd_inpaint"]
    call = {"num_inference_steps": 4, "strength": 0.5, "height": 64, "width": 128}
    pipe = make()
    made = self_calibrate(pipe, [NoiseGap()], call, prompts=PROMPTS, noises=2, batch_size=3, fpr=0.15)
    assert made[0].setting.latent_shape == (4, 8, 16) and made[0].setting == foretold_setting(pipe, call)
    assert made[0].setting.timesteps[0] < foretold_setting(pipe, {**call, "strength": 1.0}).timesteps[0]


def test_a_scale_that_enters_the_denoiser_is_kept():
    """LCM's guidance is an input of its denoiser, so it isn't turned off to have the conditional rows alone."""
    pipe = tiny_sd()
    config = {name: value for name, value in pipe.unet.config.items() if name != "_use_default_values"}
    pipe.register_modules(unet=UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 32}).eval())
    seen = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["timestep_cond"]), with_kwargs=True
    )
    self_calibrate(pipe, [NoiseGap()], {"num_inference_steps": 3, "guidance_scale": 8.0}, prompts=PROMPTS, fpr=0.15)
    hook.remove()
    assert len(seen) == 2 + 2 and all(one is not None and one.shape[-1] == 32 for one in seen)
