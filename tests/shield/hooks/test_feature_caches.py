"""Denoisers that keep features between steps: what the shield asks beside neither uses nor changes them."""

import types
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

from shield import Shield
from shield.hooks.extra_predictions import late
from shield.hooks.feature_caches import FeatureCaches
from shield.hooks.intercept import denoiser_of, intercepted
from shield.hooks.recording import recorded
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.runtime.policy import Policy
from shield.runtime.settings import caches_of
from tests.shield.calls import noises, options, thresholds
from tests.shield.test_every_family import PROMPTS, Always, equal_rows, limits, made, policy, split_by
from tests.tiny import tiny_sd

STEPS = 6
BLOCKS = ("transformer_blocks", "single_transformer_blocks")
WHOLE, LATER = (-1, 1001), (-1, 900)
CACHES = {
    "mag": lambda pipe: MagCacheConfig(
        num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS, threshold=0.3, max_skip_steps=2
    ),
    "taylor": lambda pipe: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, max_order=1),
    "first_block": lambda pipe: FirstBlockCacheConfig(threshold=0.5),
    "attention": lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=WHOLE,
        spatial_attention_block_identifiers=BLOCKS,
        current_timestep_callback=lambda: pipe._current_timestep,
    ),
    "faster": lambda pipe: FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=LATER,
        is_guidance_distilled=True,
        spatial_attention_block_identifiers=BLOCKS,
        current_timestep_callback=lambda: pipe._current_timestep,
        attention_weight_callback=lambda _: 0.5,
        tensor_format="BCHW",
    ),
}
# With true guidance two calls a step share what the last two keep, so diffusers' own pictures are wrong there.
WAYS = [("flux", name) for name in CACHES] + [("flux_true", name) for name in list(CACHES)[:3]]
cached = pytest.mark.parametrize(("way", "name"), WAYS)


def fresh(way, name):
    pipe, call = made(way)
    pipe.transformer.enable_cache(CACHES[name](pipe))
    return pipe, lambda prompts=PROMPTS, **more: call(prompts, num_inference_steps=STEPS, **more)


def kept(pipe):
    """Everything in the caches, comparable with ==."""
    found = []
    for module in denoiser_of(pipe).modules():
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            state = getattr(hook, "state", None)
            found.append(repr(vars(hook.state_manager)["_state_cache"] if state is None else vars(state)))
    return found


@cached
def test_a_cache_does_something_and_nothing_flagged_is_bit_equal(way, name):
    pipe, call = fresh(way, name)
    bare, calls = pipe(**call()).images, []
    assert not np.array_equal(bare, made(way)[0](**call()).images)
    limit = limits(pipe, way, 1e9)
    handle = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    result = Shield(pipe, policy(way), thresholds=limit)(**call())
    handle.remove()
    assert np.array_equal(bare, result.images)
    assert len(calls) == (2 * STEPS if way == "flux_true" else STEPS + 1)


@pytest.mark.usefixtures("no_memory_stays")
@cached
def test_a_row_flagged_at_the_first_step_is_as_if_it_had_had_the_other_prompt(way, name):
    pipe, call = fresh(way, name)
    limit, row = split_by(pipe, way, call())
    bare = pipe(**call()).images
    for mitigation, prompt in ((NullPrompt(), ""), (EmbeddingMix(), "a dog")):
        swapping = policy(way, mitigations=(mitigation,), rewriters=(Always(prompt),), extra_calls=9)
        result = Shield(pipe, swapping, thresholds=limit)(**call())
        assert result.verdicts[row].mitigation == mitigation.name
        wanted = pipe(**call([prompt if i == row else p for i, p in enumerate(PROMPTS)])).images
        assert np.abs(wanted - result.images).mean() < 1e-5
        assert np.abs(bare[row] - result.images[row]).mean() > 1e-4
        if name != "first_block":  # which decides for a whole batch whether it computes
            assert equal_rows(bare, result.images) == [i != row for i in range(3)]


@dataclass(frozen=True)
class Third:
    """The size of the third step's prediction, so that images are flagged under way."""

    name: ClassVar[str] = "third"
    needs: ClassVar[frozenset[str]] = frozenset({"noise_cond"})
    first_k: ClassVar[int] = 3

    def score(self, trace):
        return trace.first(3)[2].noise_cond.flatten(1).norm(dim=1)


@pytest.mark.parametrize("name", ["mag", "taylor", "attention"])
def test_a_row_flagged_under_way_gets_nothing_of_what_its_prompt_left(name):
    """From there on it is what a denoiser without a cache makes of the empty prompt from the same latents."""
    pipe, call = fresh("flux", name)
    with recorded(pipe, Third.needs, 3, stop=True) as trace:
        pipe(**call())
    scores, times = Third().score(trace), tuple(step.timestep for step in trace.steps)
    signals, caches = tuple(step.signal for step in trace.steps), caches_of(pipe, denoiser_of(pipe))
    value = float(scores.sort().values[-2:].mean())
    limit = [
        replace(
            t,
            value=value,
            setting=replace(
                t.setting, timesteps=times, signals=signals, caches=caches, steps=STEPS, guidance_scale=1.0
            ),
        )
        for t in thresholds(pipe, 0.0, (Third(),))
    ]
    row, bare, seen = int(scores.argmax()), pipe(**call()).images, []
    looked = Policy(detectors=(Third(),), mitigations=(NullPrompt(),), retries=0)

    def remember(pipe, step, timestep, tensors):
        seen.append(tensors["latents"][[row]].clone())
        return {}

    result = Shield(pipe, looked, thresholds=limit)(**call(callback_on_step_end=remember))
    assert [v.status for v in result.verdicts] == ["mitigated" if i == row else "passed" for i in range(3)]
    assert equal_rows(bare, result.images) == [i != row for i in range(3)]
    assert result.verdicts[row].extra_calls == STEPS - 2
    plain, plain_call = made("flux")
    places = iter(range(STEPS))

    def put(pipe, step, timestep, tensors):
        place = next(places)
        return {"latents": seen[place].clone()} if place == 1 else {}

    one = {**plain_call([""], num_inference_steps=STEPS), "generator": noises(1), "callback_on_step_end": put}
    assert np.allclose(plain(**one).images[0], result.images[row], atol=1e-4)


@cached
def test_what_is_asked_beside_goes_around_the_cache(way, name):
    """Asked about its own prompt, a skipping denoiser says what one without a cache says of the same latents."""
    pipe, call = fresh(way, name)
    bare, asked, differs = pipe(**call()).images, [], []

    def is_half(forward):
        return way == "flux_true" and forward.noise_uncond is None

    def ask(forward):
        if not is_half(forward):
            before = kept(pipe)
            asked.append((forward.latents, forward.rerun(range(3), forward.conditioning), forward.noise_cond))
            late(pipe, forward)
            assert kept(pipe) == before

    with intercepted(pipe, ask):
        assert np.array_equal(pipe(**call()).images, bare)
    inputs = iter(asked)

    def compare(forward):
        if not is_half(forward):
            latents, again, noise_cond = next(inputs)
            exact = forward.rerun(range(3), forward.conditioning, latents=latents)
            assert torch.allclose(exact, again, atol=1e-6)
            differs.append(not torch.allclose(noise_cond, again, atol=1e-6))

    plain, plain_call = made(way)
    with intercepted(plain, compare):
        plain(**plain_call(num_inference_steps=STEPS))
    assert any(differs) and not differs[0]


@cached
def test_a_call_that_ends_early_leaves_the_cache_empty(way, name):
    pipe, call = fresh(way, name)
    empty = kept(pipe)
    with recorded(pipe, {"noise_cond"}, 2, stop=True):
        pipe(**call())
    assert kept(pipe) == empty
    assert np.array_equal(pipe(**call()).images, fresh(way, name)[0](**call()).images)


def deep_cached(pipe, every=3):
    """As DeepCache: one deep block's output is kept for `every` timesteps, which are counted as they change."""
    unet, block = pipe.unet, pipe.unet.up_blocks[2]
    forward, deep, state = unet.forward, block.forward, {"t": None, "n": -1, "kept": None}

    def outer(sample, timestep, *args, **kwargs):
        if float(timestep) != state["t"]:
            state.update(t=float(timestep), n=state["n"] + 1)
        return forward(sample, timestep, *args, **kwargs)

    def inner(*args, **kwargs):
        if state["n"] % every == 0:
            state["kept"] = deep(*args, **kwargs)
        return state["kept"]

    unet.forward, block.forward = outer, inner
    return pipe


def test_a_forward_that_keeps_features():
    call = lambda: options(4, prompt=["the cat", "a dog", "zzz qq", "ab"], num_inference_steps=STEPS)  # noqa: E731
    bare = deep_cached(tiny_sd())(**call()).images
    assert not np.array_equal(bare, tiny_sd()(**call()).images)
    quiet = Shield(deep_cached(tiny_sd()), thresholds=thresholds(tiny_sd(), 1e9))(**call())
    assert np.array_equal(quiet.images, bare) and not any(v.extra_calls for v in quiet.verdicts)
    highest = sorted(score.value for v in quiet.verdicts for score in v.scores)[-2:]
    flagging = thresholds(tiny_sd(), sum(highest) / 2)
    result = Shield(deep_cached(tiny_sd()), Policy(mitigations=(NullPrompt(),)), thresholds=flagging)(**call())
    row = [v.status for v in result.verdicts].index("mitigated")
    assert equal_rows(bare, result.images) == [i != row for i in range(4)]
    prompts = ["" if i == row else p for i, p in enumerate(call()["prompt"])]
    empty = deep_cached(tiny_sd())(**{**call(), "prompt": prompts}).images
    assert np.allclose(empty[row], result.images[row], atol=1e-4)
    assert result.verdicts[row].extra_calls == 0  # the unconditional half is the empty prompt's


def test_which_forwards_keep_features():
    pipe = tiny_sd()
    assert not FeatureCaches(pipe.unet, None)
    pipe.enable_model_cpu_offload(device="cpu")
    assert not FeatureCaches(pipe.unet) and "forward" in vars(pipe.unet)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float32, compute_dtype=torch.float32)
    assert not FeatureCaches(pipe.unet)
    moved = deep_cached(pipe)
    caches = FeatureCaches(moved.unet)
    assert caches and not caches.can_be_emptied
    own, block = types.MethodType(type(moved.unet).forward, moved.unet), moved.unet.up_blocks[2]
    call = {"sample": torch.randn(1, 4, 8, 8), "timestep": 5, "encoder_hidden_states": torch.randn(1, 16, 16)}
    held = dict(vars(moved.unet))
    with torch.no_grad(), caches.bypassed():
        found = moved.unet(**call).sample
    assert {k: id(v) for k, v in vars(moved.unet).items()} == {k: id(v) for k, v in held.items()}
    with torch.no_grad():
        block.forward = types.MethodType(type(block).forward, block)
        assert torch.equal(own(**call).sample, found)
