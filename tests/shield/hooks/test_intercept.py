import gc
import weakref

import numpy as np
import pytest
import torch

from shield.errors import MissingSignalError, TraceError, UnsupportedPipelineError
from shield.hooks.calls import picked_rows
from shield.hooks.intercept import intercepted
from shield.hooks.recording import recorded
from tests.shield.calls import PROMPTS, STEPS, noises, options, state

ALL = ("latents", "noise_cond", "noise_uncond")


def test_recording_changes_no_bit(any_pipe):
    bare = any_pipe(PROMPTS, **options(4)).images
    with recorded(any_pipe, ALL) as trace:
        watched = any_pipe(PROMPTS, **options(4)).images
    assert np.array_equal(bare, watched)
    assert len(trace.steps) == STEPS and trace.batch == 4


def test_halves_are_what_the_denoiser_predicts_for_prompt_and_empty_prompt(any_pipe):
    """A swap of the halves leaves every distance as it is, so it is looked for here."""
    with recorded(any_pipe, ALL) as trace:
        any_pipe(PROMPTS[:2], **options(2))
    for step in trace.steps:
        cond, _ = any_pipe.encode_prompt(PROMPTS[:2], "cpu", 1, False)
        uncond, _ = any_pipe.encode_prompt(["", ""], "cpu", 1, False)
        with torch.no_grad():
            for name, embeds in (("noise_cond", cond), ("noise_uncond", uncond)):
                want = any_pipe.unet(step.latents, int(step.timestep), embeds).sample
                assert torch.allclose(getattr(step, name), want, atol=1e-5)
    assert not torch.allclose(trace.steps[0].noise_cond, trace.steps[0].noise_uncond, atol=1e-4)


def test_recorded_tensors_are_float32_copies_on_the_cpu(pipe):
    pipe.unet.to(torch.float64)
    pipe.text_encoder.to(torch.float64)
    with recorded(pipe, ALL, first_k=1) as trace:
        pipe(PROMPTS[:1], **options(1, output_type="latent"))
    assert len(trace.steps) == 1
    assert {getattr(trace.steps[0], n).dtype for n in ALL} == {torch.float32}


def test_only_what_is_needed_is_recorded(pipe):
    with recorded(pipe, {"noise_cond"}, first_k=1) as trace:
        pipe("the cat", **options())
    assert trace.steps[0].latents is None and trace.steps[0].noise_uncond is None
    with pytest.raises(MissingSignalError, match="noise_uncond"):
        trace.steps[0].gap()


def test_stop_ends_the_call_after_the_wanted_steps(pipe):
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with recorded(pipe, ALL, first_k=1, stop=True) as trace:
        pipe(PROMPTS, **options(4))
        pytest.fail("the call should have been left")
    handle.remove()
    assert len(calls) == 1 and len(trace.steps) == 1


def test_everything_is_as_before_after_an_exception(pipe):
    pipe("the cat", **options(1))
    before = state(pipe)
    with pytest.raises(KeyError), recorded(pipe, ALL):
        raise KeyError("inside")
    assert state(pipe) == before


def test_a_foreign_exception_in_the_call_passes_and_leaves_no_hook(pipe):
    def broken(*_):
        raise RuntimeError("from a callback")

    with pytest.raises(RuntimeError, match="from a callback"), recorded(pipe, ALL, stop=True, first_k=9):
        pipe("the cat", callback_on_step_end=broken, **options(1))
    assert not pipe.unet._forward_hooks and not pipe.unet._forward_pre_hooks


def test_two_calls_in_one_block_are_refused(pipe):
    with pytest.raises(TraceError, match="one pipeline call"), recorded(pipe, ALL):
        pipe("the cat", **options(1))
        pipe("the cat", **options(1))


def test_guidance_off_records_cond_alone(pipe):
    with recorded(pipe, ALL) as trace:
        pipe(PROMPTS[:2], **{**options(2), "guidance_scale": 1.0})
    assert trace.batch == 2 and trace.steps[0].noise_uncond is None


def test_unknown_signal_and_unknown_pipeline(pipe):
    with pytest.raises(MissingSignalError, match="color"), recorded(pipe, {"color"}):
        pass
    with pytest.raises(UnsupportedPipelineError, match="Linear"), recorded(torch.nn.Linear(1, 1), ALL):
        pass


def test_an_edit_goes_through_the_pipelines_own_guidance(pipe):
    """Returning the unconditional prediction as the conditional one gives the picture of an empty prompt."""
    empty = pipe(["", ""], **options(2)).images
    with intercepted(pipe, lambda forward: forward.noise_uncond.clone()):
        edited = pipe(PROMPTS[:2], **options(2)).images
    assert np.allclose(empty, edited, atol=1e-4)


def test_an_edit_of_one_row_leaves_the_others_bit_equal(pipe):
    bare = pipe(PROMPTS, **options(4)).images

    def second(forward):
        changed = forward.noise_cond.clone()
        changed[1] = forward.noise_uncond[1]
        return changed

    with intercepted(pipe, second):
        edited = pipe(PROMPTS, **options(4)).images
    assert [np.array_equal(a, b) for a, b in zip(bare, edited, strict=True)] == [True, False, True, True]


def test_rerun_predicts_another_conditioning_for_one_row(pipe):
    seen = []

    def swap(forward):
        conditioning = forward.conditioning.rows([2])
        seen.append(torch.allclose(forward.rerun([0], conditioning)[0], forward.noise_cond[0], atol=1e-5))
        seen.append(torch.allclose(forward.rerun([2], conditioning)[0], forward.noise_cond[2], atol=1e-5))

    with intercepted(pipe, swap):
        pipe(PROMPTS, **options(4, num_inference_steps=1))
    assert seen == [False, True]


def test_rerun_works_only_during_its_step(pipe):
    kept = []
    with intercepted(pipe, kept.append):
        pipe("the cat", generator=noises(1), **options())
    with pytest.raises(TraceError, match="current one"):
        kept[0].rerun([0], kept[0].conditioning)


def test_no_tensor_of_the_call_is_kept_alive(pipe):
    seen = []

    def remember(forward):
        seen.append(weakref.ref(forward.latents))

    with intercepted(pipe, remember):
        pipe("the cat", **options(1))
    gc.collect()
    assert [ref() for ref in seen] == [None] * STEPS


def test_picked_rows_reaches_into_containers():
    batch, other = torch.arange(4), torch.arange(3)
    picked = picked_rows({"a": [batch, other], "txt_ids": batch, "b": None, "t": torch.tensor(5)}, [1, 3], 4)
    assert picked["a"][0].tolist() == [1, 3] and picked["a"][1].tolist() == [0, 1, 2]
    assert picked["txt_ids"] is batch and picked["b"] is None
