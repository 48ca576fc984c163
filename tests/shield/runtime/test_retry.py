"""A finished copy is drawn once more. On this tiny model row 3's picture correlates by .62 with the empty prompt's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor

from shield import Gallery, Shield
from shield.errors import TraceError
from shield.hooks.intercept import once_more
from shield.hooks.recording import recorded
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.runtime.call import ImageState
from shield.runtime.policy import Policy, preset
from shield.runtime.retry import kept_noise, worth_retrying
from shield.types import Nearest
from tests.shield.calls import STEPS, noises, options, state, thresholds

PROMPTS = ["the cat", "a dog", "zzz qq", "the cat, a picture by anna"]
NULL = Policy(mitigations=(NullPrompt(),))
COPY = Nearest("work-1", "correlation", 1.0, 0.9, True)


def gallery_of(pipe, **call):
    gallery = Gallery(correlation=0.8, pdq_distance=0)
    gallery.add([("work-1", pipe(PROMPTS, **{**options(4), **call, "output_type": "pil"}).images[3])])
    return gallery


def equal(a, b):
    return [np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_a_copy_is_drawn_again_with_a_mitigation_from_the_first_step(pipe, output_type):
    call = lambda: options(4, output_type=output_type)  # noqa: E731
    bare, empty = pipe(PROMPTS, **call()).images, pipe([""] * 4, **call()).images
    result = Shield(pipe, NULL, gallery_of(pipe), thresholds=thresholds(pipe, 1e9))(PROMPTS, **call())
    assert equal(bare, result.images) == [True, True, True, False]
    assert np.allclose(np.asarray(result.images[3]), np.asarray(empty[3]), atol=1 if output_type == "pil" else 1e-3)
    verdict = result.verdicts[3]
    assert [v.status for v in result.verdicts] == ["passed"] * 3 + ["mitigated"]
    assert (verdict.mitigation, verdict.extra_calls) == ("null_prompt", STEPS)
    assert (verdict.reasons[0].kind, verdict.reasons[0].work) == ("copy", "work-1") and not verdict.nearest.copied
    assert [s.detector for s in verdict.scores] == ["structure_gap"] * 2
    assert [v.extra_calls for v in result.verdicts[:3]] == [0] * 3


@pytest.mark.parametrize("generator", [None, 7, "list"])
def test_the_second_run_starts_from_the_same_noise_and_leaves_what_one_run_leaves(pipe, generator):
    def made():
        torch.manual_seed(3)
        return {None: None, 7: torch.Generator().manual_seed(7), "list": noises(4)}[generator]

    def after(noise):
        owned = noise if isinstance(noise, list) else [noise] if noise else []
        return [torch.get_rng_state().tolist(), *(g.get_state().tolist() for g in owned)]

    gallery = gallery_of(pipe, generator=made(), eta=0.5)
    bare_noise = made()
    bare = pipe(PROMPTS, **options(eta=0.5), generator=bare_noise).images
    left = after(bare_noise)
    noise = made()
    shield = Shield(pipe, NULL, gallery, thresholds=thresholds(pipe, 1e9))
    result = shield(PROMPTS, **options(eta=0.5), generator=noise)
    assert result.verdicts[3].status == "mitigated" and after(noise) == left
    assert equal(bare, result.images) == [True, True, True, False]
    empty = pipe([""] * 4, **options(eta=0.5), generator=made()).images
    assert np.allclose(result.images[3], empty[3], atol=1e-3)


def test_the_second_run_starts_with_the_next_mitigation(pipe):
    """The first one held by the detectors and came out as a copy all the same."""
    low = [replace(t, value=0.05) for t in thresholds(pipe)]
    policy = Policy(mitigations=(EmbeddingMix(), NullPrompt()), retries=0)
    once = Shield(pipe, policy, thresholds=low)(PROMPTS, **options(4, output_type="pil"))
    assert once.verdicts[3].mitigation == "embedding_mix"
    gallery = Gallery(correlation=0.9, pdq_distance=0)
    gallery.add([("work-1", once.images[3])])
    without = Shield(pipe, policy, gallery, thresholds=low)(PROMPTS, **options(4, output_type="pil"))
    assert without.verdicts[3].status == "blocked"
    result = Shield(pipe, replace(policy, retries=1), gallery, thresholds=low)(PROMPTS, **options(4, output_type="pil"))
    verdict = result.verdicts[3]
    assert verdict.extra_calls == once.verdicts[3].extra_calls + STEPS
    assert verdict.mitigation == "null_prompt" or verdict.nearest.copied
    assert (verdict.reasons[1].kind, verdict.reasons[1].work) == ("copy", "work-1")
    assert equal(once.images[:3], result.images[:3]) == [True] * 3


def test_an_observer_of_the_first_run_is_not_shown_the_second(pipe):
    shield = Shield(pipe, NULL, gallery_of(pipe), thresholds=thresholds(pipe, 1e9))
    with recorded(pipe, {"noise_cond"}) as trace:
        result = shield(PROMPTS, **options(4))
    assert result.verdicts[3].status == "mitigated" and len(trace.steps) == STEPS
    with pytest.raises(TraceError, match="one block for one pipeline call"), recorded(pipe, {"noise_cond"}):
        with once_more():
            pipe("a dog", **options(1))
        pipe("a dog", **options(1))
        pipe("a dog", **options(1))


class BlackensTheSecond(torch.nn.Module):
    """A safety checker that finds everything wrong the second time."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        self.calls, self.one = 0, torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, clip_input):
        self.calls += 1
        found = self.calls == 2
        return (images * 0 if found else images), [found] * len(images)


@pytest.mark.parametrize("return_dict", [True, False])
def test_what_a_pipeline_says_about_a_picture_is_taken_with_it(pipe, return_dict):
    gallery = gallery_of(pipe)
    pipe.safety_checker, side = BlackensTheSecond(), {"height": 8, "width": 8}
    pipe.feature_extractor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=side)
    result = Shield(pipe, NULL, gallery, thresholds=thresholds(pipe, 1e9))(
        PROMPTS, **options(4, return_dict=return_dict)
    )
    images, found = (result.images, result.nsfw_content_detected) if return_dict else result
    assert found == [False, False, False, True] == [float(image.max()) == 0.0 for image in images]


def test_monitor_draws_once(pipe):
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    gallery = gallery_of(pipe)
    calls.clear()
    result = Shield(pipe, "monitor", gallery, thresholds=thresholds(pipe, 1e9))(PROMPTS, **options(4))
    handle.remove()
    assert len(calls) == STEPS and result.verdicts[3].status == "passed" and result.verdicts[3].nearest.copied


def test_an_exception_in_the_second_run_leaves_everything_as_it_was(pipe):
    shield = Shield(pipe, NULL, gallery_of(pipe, eta=0.5), thresholds=thresholds(pipe, 1e9))
    pipe("the cat", **options(1))
    before, noise, seen = state(pipe), noises(4), []
    kept = [g.get_state() for g in noise]

    def broken(pipe, i, t, kwargs):
        seen.append(i)
        if len(seen) > STEPS:
            raise RuntimeError("from the second run")
        return {}

    with pytest.raises(RuntimeError, match="from the second run"):
        shield(PROMPTS, callback_on_step_end=broken, generator=noise, **options(eta=0.5))
    assert state(pipe) == before
    assert all(torch.equal(g.get_state(), k) for g, k in zip(noise, kept, strict=True))


def test_when_a_retry_is_worth_it():
    """Two mitigations. An image needs one: a copy, or nothing helped once it was under way."""
    policy = Policy()
    fresh = ImageState(0, "a")
    assert worth_retrying(fresh, COPY, policy) and not worth_retrying(fresh, None, policy)
    assert not worth_retrying(fresh, replace(COPY, copied=False), policy)
    assert worth_retrying(ImageState(0, "a", action="mitigate", tried=2, spent=1), COPY, policy)
    assert not worth_retrying(ImageState(0, "a", action="mitigate", tried=2, spent=2), COPY, policy)
    assert worth_retrying(ImageState(0, "a", action="block", tried=2), None, policy)
    assert not worth_retrying(ImageState(0, "a", action="block"), COPY, policy)  # couldn't be judged
    for other in (replace(policy, on_flag="block"), replace(policy, on_copy="report"), preset("monitor")):
        assert not worth_retrying(fresh, COPY, other)


def test_kept_noise_restores_torchs_own_and_the_callers():
    noise = torch.Generator().manual_seed(1)
    restore = kept_noise([noise, None])
    first = torch.rand(2), torch.rand(2, generator=noise)
    restore()
    assert all(torch.equal(a, b) for a, b in zip(first, (torch.rand(2), torch.rand(2, generator=noise)), strict=True))
