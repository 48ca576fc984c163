"""Calls that share a part wait for each other; what runs beside a watched call is never taken for a step of it."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

import shield
from probes.testbed.manifest import load_manifest
from shield import Shield
from shield.detectors import NoiseGap
from shield.errors import TraceError
from shield.hooks.attention import attention_watched
from shield.hooks.recording import recorded
from shield.hooks.running import alone
from shield.mitigations import NullPrompt
from shield.protected.concepts import Concept, Concepts
from shield.runtime.policy import Policy
from tests.shield.calls import noises, options, state, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture

PROMPTS = ("a cat on a blue background", load_manifest().shown()[0].captions[0])
PATIENCE = 20.0


def sharing(base, kind=StableDiffusionPipeline):
    """Another pipeline over the same modules, with a scheduler of its own."""
    pipe = kind(**{**base.components, "scheduler": copy.deepcopy(base.scheduler)}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_threads_agree(shields, drawn, threads=8, calls=5, kinds=8):
    """`drawn(shield, number)` in threads, and one after the other for each of the first `kinds` numbers."""
    want = [drawn(shields[0], number) for number in range(kinds)]
    numbers = [number % kinds for number in range(threads * calls)]
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(drawn, [shields[n % len(shields)] for n in range(len(numbers))], numbers))
    for number, (latents, *verdict) in zip(numbers, found, strict=True):
        assert np.array_equal(latents, want[number][0]) and tuple(verdict) == want[number][1:]
    assert {status for _, status, *_ in found} == {"passed", "mitigated"}
    for safe in shields:
        assert not {"step", "add_noise", "scale_model_input"} & set(vars(safe.pipe.scheduler))
        assert "decode" not in vars(safe.pipe.vae) and "prepare_latents" not in vars(safe.pipe)


def drawn(safe, number, prompts=PROMPTS):
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    output = safe(prompts[number % 3 == 0], generator=noises(1, number), **call)
    verdict = output.verdicts[0]
    return output.images[0].numpy(), verdict.status, verdict.scored, [score.value for score in verdict.scores]


def test_threads_come_to_what_one_after_the_other_comes_to():
    """Benign and memorized prompts mixed, on the shipped model."""
    assert_threads_agree([Shield(shield.load("testbed", "cpu"))], drawn)


def test_a_shield_for_each_thread_over_one_denoiser():
    base = tiny_sd()
    screen = Concepts([Concept("anna")])
    shields = [
        Shield(
            sharing(base),
            Policy(detectors=(NoiseGap(),), mitigations=(NullPrompt(),), on_unscored="pass"),
            concepts=screen,
            thresholds=[],
            calibrate="never",
        )
        for _ in range(8)
    ]
    assert_threads_agree(shields, partial(drawn, prompts=("the cat", "anna")))


def test_a_bare_call_in_another_thread_is_none_of_ours(pipe):
    """It runs between two steps of the watched one, on the same denoiser."""
    other, prompt = sharing(pipe), "the cat"
    want, bare = pipe(prompt, **options(1)).images, other("a dog", **options(1)).images
    found = []

    def beside(pipe, step, timestep, tensors):
        thread = threading.Thread(target=lambda: found.append(other("a dog", **options(1)).images))
        thread.start()
        thread.join(PATIENCE)
        return tensors

    layer = next(name for name, _ in pipe.unet.named_modules() if name.endswith("attn2"))
    with attention_watched(pipe.unet, [layer]) as latest:
        beside(None, 0, 0, {})
        assert not latest
    output = Shield(pipe, "strict", thresholds=thresholds(pipe, 1e9))(prompt, **options(1, callback_on_step_end=beside))
    assert np.array_equal(output.images, want) and all(np.array_equal(one, bare) for one in found)
    assert (output.verdicts[0].status, output.verdicts[0].reasons) == ("passed", ()) and len(found) == 4


@pytest.mark.parametrize("is_shielded", [True, False])
@pytest.mark.parametrize("has_own_scheduler", [True, False])
def test_a_pipeline_that_is_called_within_a_callback(pipe, is_shielded, has_own_scheduler):
    """A preview or a detailer on the same denoiser. With the caller's own scheduler, that one's state is changed."""
    inner = sharing(pipe, StableDiffusionImg2ImgPipeline)
    if not has_own_scheduler:
        inner.scheduler = pipe.scheduler
    limits = thresholds(pipe, 1e9)
    within = Shield(inner, "monitor", thresholds=limits) if is_shielded else inner
    inside = []

    def preview(pipe, step, timestep, tensors):
        if step == 1:
            call = options(1, image=tiny_picture(), strength=1.0)
            inside.append(within("a dog", **call))
        return tensors

    def call():
        return options(1, callback_on_step_end=preview)

    want, before = pipe("the cat", **call()).images, state(pipe)
    for given in (call(), {**call(), "callback_on_step_end": None}):
        output = Shield(pipe, "strict", thresholds=limits)("the cat", **given)
        assert np.array_equal(output.images, want) and output.verdicts[0].status == "passed"
        assert output.verdicts[0].reasons == () and len(output.verdicts[0].scores) == 1
    assert len(inside) == 2 and np.array_equal(inside[0].images, inside[1].images)
    assert {k: v for k, v in state(pipe).items() if k != "rng"} == {k: v for k, v in before.items() if k != "rng"}


def test_who_shares_nothing_does_not_wait_and_the_same_thread_goes_through():
    base, other = tiny_sd(), tiny_sd()
    order = []

    def enter(pipe):
        with alone(pipe):
            order.append(pipe)

    with alone(base), alone(sharing(base)):
        free, waits = threading.Thread(target=enter, args=(other,)), threading.Thread(target=enter, args=(base,))
        free.start()
        free.join(PATIENCE)
        waits.start()
        waits.join(0.2)
        assert order == [other] and waits.is_alive()
    waits.join(PATIENCE)
    assert order == [other, base]


def test_two_calls_that_would_wait_for_each_other_end_in_one_sentence():
    first, second = tiny_sd(), tiny_sd()
    both, failed = threading.Barrier(2), []

    def cross(mine, others):
        try:
            with alone(mine):
                both.wait(PATIENCE)
                with alone(others):
                    pass
        except TraceError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=cross, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert len(failed) == 1 and "wait for each other" in failed[0]
    with alone(first), alone(second):  # nothing stays behind
        pass


def test_an_exception_gives_the_model_back(pipe):
    with pytest.raises(KeyError), recorded(pipe, {"noise_cond"}):
        raise KeyError
    entered = []

    def enter():
        with alone(pipe):
            entered.append(True)

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert entered
