"""The trajectory watch on tiny pipelines: row 3's own preview is the protected work, so what flags it is known.

Previews of other noises correlate with it by at most .3; the empty prompt's, and another prompt's, on the same noise
by .95 to .98.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shield import Gallery, Shield
from shield.calibration.detectors import NegativeSampling
from shield.calibration.previews import calibrate_watch
from shield.errors import BadRequestError, MissingSignalError, NotCalibratedError
from shield.hooks.intercept import denoiser_of, intercepted
from shield.hooks.preview import clean_latents, preview_of
from shield.mitigations import EmbeddingMix, NullPrompt, OppositeGuidance
from shield.protected.concepts import Concept, Concepts
from shield.protected.meaning import Meaning, Space, calibrated_limit
from shield.reasons import Reason
from shield.runtime.policy import Policy, preset
from shield.thresholds import load_thresholds, save_threshold
from tests.shield.calls import NEGATIVES, STEPS, options, state, thresholds
from tests.shield.test_every_family import WAYS
from tests.shield.test_every_family import made as made_family

PROMPTS = ["the cat", "a dog", "zzz qq", "the cat, a picture by anna"]
OTHERS = [True, True, True, False]
SAMPLING = NegativeSampling(STEPS, 5.0, 20)
SHARES = {0: 0.0, 1: 0.4, 2: 1.0}


def previews(pipe, prompts=PROMPTS, step=0):
    seen = {}

    def look(forward):
        seen[forward.index] = preview_of(pipe).pictures(clean_latents(pipe, forward, forward.noise_cond, (64, 64)))

    with intercepted(pipe, look):
        pipe(prompts, **options(len(prompts)))
    return seen[step]


def gallery_of(pipe, step=0):
    gallery = Gallery(correlation=1.0, pdq_distance=0)
    gallery.add([("work-1", previews(pipe, step=step)[3])])
    return gallery


def made(pipe, gallery, step, value):
    """A detector's threshold that flags nothing, and the watch's at `value`."""
    watch = calibrate_watch(pipe, [SHARES[step]], NEGATIVES[:19], [50], 0.05, "tiny", gallery, sampling=SAMPLING)
    return [*thresholds(pipe, 1e9), *(replace(t, value=value) for t in watch)]


def shielded(pipe, value, step=0, **policy):
    gallery = gallery_of(pipe, step)
    used = Policy(**{"watch_steps": (SHARES[step],), **policy})
    return Shield(pipe, used, gallery, thresholds=made(pipe, gallery, step, value))


def equal(a, b):
    return [np.array_equal(x, y) for x, y in zip(a, b, strict=True)]


def test_nothing_near_is_bit_equal_without_an_extra_call(any_pipe):
    shield = shielded(any_pipe, 2.0)
    bare = any_pipe(PROMPTS, **options(4)).images
    calls = []
    handle = any_pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    result = shield(PROMPTS, **options(4))
    handle.remove()
    assert np.array_equal(bare, result.images) and len(calls) == STEPS
    assert {v.status for v in result.verdicts} == {"passed"} and {v.extra_calls for v in result.verdicts} == {0}
    looks = [v.scores[-1] for v in result.verdicts]
    assert [(s.detector, s.nearest, s.step, s.threshold) for s in looks] == [("gallery_preview", "work-1", 0, 2.0)] * 4
    assert looks[3].value == pytest.approx(1.0, abs=1e-3) and all(s.value < 0.5 for s in looks[:3])


def test_a_hit_is_mitigated_for_its_row_alone_and_said(pipe):
    """At this threshold another prompt on the same noise is a hit too, and the empty prompt isn't."""
    result = shielded(pipe, 0.976)(PROMPTS, **options(4))
    assert equal(pipe(PROMPTS, **options(4)).images, result.images) == OTHERS
    verdict = result.verdicts[3]
    assert [v.status for v in result.verdicts] == ["passed"] * 3 + ["mitigated"]
    assert verdict.mitigation == "null_prompt" and 0 < verdict.extra_calls <= Policy().extra_calls
    assert str(verdict.reasons[0]) == "gallery_preview of work-1 at step 1 1 is above 0.976"
    assert np.allclose(result.images[3], pipe([""] * 4, **options(4)).images[3], atol=1e-4)


def test_a_proposal_counts_only_when_its_own_preview_is_far_enough(pipe):
    result = shielded(pipe, 0.99, mitigations=(EmbeddingMix(),))(PROMPTS, **options(4))
    assert result.verdicts[3].mitigation == "embedding_mix" and result.verdicts[3].rewritten_prompt
    blocked = shielded(pipe, 0.976, mitigations=(EmbeddingMix(),))(PROMPTS, **options(4))
    assert [v.status for v in blocked.verdicts] == ["passed"] * 3 + ["blocked"]
    assert (blocked.images[3] == 0.5).all()


def test_when_even_the_empty_prompt_comes_near_the_image_is_blocked(pipe):
    result = shielded(pipe, 0.5)(PROMPTS, **options(4))
    assert [v.status for v in result.verdicts] == ["passed"] * 3 + ["blocked"]
    assert equal(pipe(PROMPTS, **options(4)).images, result.images) == OTHERS


@pytest.mark.parametrize(("on_flag", "status"), [("block", "blocked"), ("report", "passed")])
def test_a_hit_follows_the_policy(pipe, on_flag, status):
    result = shielded(pipe, 0.5, step=1, on_flag=on_flag)(PROMPTS, **options(4))
    assert [v.status for v in result.verdicts] == ["passed"] * 3 + [status]
    bare = pipe(PROMPTS, **options(4)).images
    assert equal(bare, result.images) == ([True] * 4 if on_flag == "report" else OTHERS)
    assert result.verdicts[3].reasons[0].step == 1


def test_what_is_flagged_late_is_drawn_again_from_the_first_step(pipe):
    """The empty prompt fails late (.978 at the second step) for what came before it; from the first step on it passes
    where it is given the chance by a threshold between the two.
    """
    noise = options(4)["generator"]
    shield = shielded(pipe, 0.5, step=1, retries=0)
    stopped = shield(PROMPTS, **{**options(4), "generator": noise})
    assert stopped.verdicts[3].status == "blocked" and stopped.verdicts[3].reasons[-1].kind == "exhausted"
    again = options(4)["generator"]
    twice = shielded(pipe, 0.5, step=1, retries=5)(PROMPTS, **{**options(4), "generator": again})
    verdict = twice.verdicts[3]
    assert verdict.status == "blocked" and equal(stopped.images, twice.images) == [True] * 4
    assert [s.step for s in verdict.scores if s.detector == "gallery_preview"] == [1, 1, 1]
    assert verdict.extra_calls >= 2 * STEPS
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(noise, again, strict=True))


def test_an_image_that_is_mitigated_already_gets_the_next_mitigation(pipe):
    """Flagged by the detector, then seen on the way to the work all the same."""
    gallery = gallery_of(pipe, 1)
    flags_all = [replace(t, value=-1.0) if t.detector == "structure_gap" else t for t in made(pipe, gallery, 1, 0.5)]
    used = Policy(watch_steps=(SHARES[1],), mitigations=(OppositeGuidance(latest=0.0), NullPrompt()), retries=0)
    result = Shield(pipe, used, gallery, thresholds=flags_all)(PROMPTS, **options(4))
    assert [v.mitigation for v in result.verdicts[:3]] == ["opposite_guidance"] * 3
    reasons = result.verdicts[3].reasons
    assert result.verdicts[3].status == "blocked"
    assert reasons[0].detector == "structure_gap"
    assert (reasons[1].detector, reasons[1].work) == ("gallery_preview", "work-1")


@pytest.mark.parametrize("kind", ["linear", "decode"])
def test_calibrated_thresholds_are_found_again_through_a_file(pipe, tmp_path, kind):
    gallery = gallery_of(pipe)
    before, told = state(pipe), []
    watch = calibrate_watch(
        pipe,
        (0.0, 0.4),
        NEGATIVES[:19],
        [50],
        0.05,
        "tiny",
        gallery,
        preview=kind,
        sampling=SAMPLING,
        provenance={"negatives": "by hand"},
        progress=told.append,
    )
    assert state(pipe) == before and sum(told) == 19
    assert [(t.detector, t.options) for t in watch] == [
        ("gallery_preview", {"share": 0.0, "preview": kind}),
        ("gallery_preview", {"share": 0.4, "preview": kind}),
    ]
    about = watch[0].provenance
    assert (about["negatives"], about["prompts"], about["works"], about["seeds"]) == ("by hand", 19, 1, [50])
    assert 0.0 < watch[0].value < 1.0 and watch[0].fpr == 0.05 and watch[0].negatives == 19
    for threshold in (*watch, *thresholds(pipe, 1e9)):
        save_threshold(threshold, tmp_path)
    assert len(load_thresholds(tmp_path)) == 3
    shield = Shield(pipe, Policy(watch_steps=(0.0, 0.4), preview=kind), gallery, thresholds=tmp_path)
    shield("a dog", **options(1))
    with pytest.raises(NotCalibratedError, match="diffshield calibrate-watch"):
        shield("a dog", **options(1, guidance_scale=3.0))  # the second step depends on guidance
    first = Shield(pipe, Policy(watch_steps=(0.0,), preview=kind), gallery, thresholds=tmp_path)
    assert first("a dog", **options(1, guidance_scale=3.0)).verdicts[0].scores[-1].threshold == watch[0].value


def test_without_a_threshold_the_command_is_named(pipe):
    with pytest.raises(
        NotCalibratedError,
        match="gallery_preview was never .* run `diffshield calibrate-watch --model YOUR_MODEL --points 0 --gallery G",
    ):
        Shield(pipe, Policy(watch_steps=(0.0,)), gallery_of(pipe), thresholds=thresholds(pipe))
    blind = Shield(pipe, replace(preset("strict"), watch_steps=(0.0,)), gallery_of(pipe), thresholds=thresholds(pipe))
    verdict = blind("a dog", **options(1)).verdicts[0]
    assert (verdict.status, verdict.scored) == ("blocked", False)
    assert Reason("unscored", "gallery_preview", detail="it has no threshold at this step") in verdict.reasons


@pytest.mark.parametrize("gallery", [None, Gallery()], ids=["none", "empty"])
def test_without_anything_to_compare_with_there_is_no_watch(pipe, gallery):
    shield = Shield(pipe, Policy(watch_steps=(0.0, 0.5)), gallery, thresholds=thresholds(pipe, 1e9))
    assert [s.detector for s in shield("a dog", **options(1)).verdicts[0].scores] == ["structure_gap"]
    assert all(preset(name).watch_steps == () for name in ("monitor", "balanced", "strict"))


def test_a_batch_that_is_blocked_already_is_not_looked_at(pipe):
    gallery = gallery_of(pipe)
    flags_all = [replace(t, value=-1.0) for t in made(pipe, gallery, 0, 0.5)]
    used = Policy(watch_steps=(0.0, 0.4), on_flag="block", on_unscored="block")
    result = Shield(pipe, used, gallery, thresholds=flags_all)(PROMPTS, **options(4))
    assert [v.status for v in result.verdicts] == ["blocked"] * 4
    assert [[s.detector for s in v.scores] for v in result.verdicts] == [["structure_gap"]] * 4


def test_a_gallery_that_is_filled_later_is_watched(pipe):
    gallery = Gallery()
    made_before = made(pipe, gallery_of(pipe), 0, 0.5)
    shield = Shield(pipe, Policy(watch_steps=(0.0,), on_flag="block"), gallery, thresholds=made_before)
    assert shield(PROMPTS, **options(4)).verdicts[3].status == "passed"
    gallery.add([("work-1", previews(pipe)[3])])
    assert shield(PROMPTS, **options(4)).verdicts[3].status == "blocked"


def test_nan_latents_are_never_passed(pipe):
    latents = torch.full((1, 4, 8, 8), float("nan"))
    gallery = gallery_of(pipe)
    limits = made(pipe, gallery, 0, 2.0)
    alone = Policy(detectors=(), watch_steps=(0.0,))
    with pytest.raises(MissingSignalError, match="NaN"):
        Shield(pipe, alone, gallery, thresholds=limits)("the cat", latents=latents, **options())
    blocked = Shield(pipe, replace(alone, on_unscored="block"), gallery, thresholds=limits)
    assert blocked("the cat", latents=latents, **options()).verdicts[0].status == "blocked"


def test_an_exception_inside_leaves_everything_as_it_was(pipe):
    shield = shielded(pipe, 0.976)
    pipe("the cat", **options(1))
    before, noise = state(pipe), options(4)["generator"]
    kept = [g.get_state() for g in noise]

    def broken(pipe, i, t, kwargs):
        raise RuntimeError("from a callback")

    with pytest.raises(RuntimeError, match="from a callback"):
        shield(PROMPTS, callback_on_step_end=broken, **{**options(4), "generator": noise})
    assert state(pipe) == before and all(torch.equal(g.get_state(), k) for g, k in zip(noise, kept, strict=True))


def test_concepts_by_meaning_are_looked_for_in_previews(pipe):
    registry = Concepts([Concept("bolto", descriptions=("the red robot with one wheel",))])
    space = Space(registry, "testbed")
    screen = Meaning(registry, space.encoder, replace(calibrated_limit(space, NEGATIVES, 0.05), value=2.0))
    made_watch = calibrate_watch(pipe, [0.0], NEGATIVES[:19], [50], 0.05, "tiny", concepts=screen, sampling=SAMPLING)
    assert made_watch[0].options == {"share": 0.0, "preview": "linear", "concepts": space.fingerprint}
    used = [*thresholds(pipe, 1e9), *(replace(t, value=-1.0) for t in made_watch)]
    shield = Shield(pipe, Policy(watch_steps=(0.0,), on_flag="block"), concepts=screen, thresholds=used)
    score = shield("a dog", **options(1)).verdicts[0].scores[-1]
    ((value, name),) = space.shown([previews(pipe, ["a dog"])[0]])
    assert (score.detector, score.nearest, score.flagged) == ("concept_preview", "bolto", True) and name == "bolto"
    assert score.value == pytest.approx(value, abs=1e-4)


def test_bad_requests_are_one_sentence(pipe):
    for bad in ({"watch_steps": (1.5,)}, {"preview": "big"}, {"retries": -1}):
        with pytest.raises(BadRequestError, match=next(iter(bad))):
            Policy(**bad)
    with pytest.raises(BadRequestError, match="nothing to watch for"):
        calibrate_watch(pipe, [0.0], NEGATIVES, [0], 0.05, "tiny", Gallery())
    with pytest.raises(BadRequestError, match="0 prompts"):
        calibrate_watch(pipe, [0.0], [], [0], 0.05, "tiny", gallery_of(pipe))
    with pytest.raises(BadRequestError, match="at least 19 negatives"):
        calibrate_watch(pipe, [0.0], NEGATIVES[:5], [0], 0.05, "tiny", gallery_of(pipe), sampling=SAMPLING)


@pytest.mark.parametrize("way", WAYS)
def test_every_family_is_watched_bit_equal(way):
    pipe, call = made_family(way)
    gallery = Gallery()
    from tests.shield.protected.test_gallery import picture

    gallery.add([("work-1", picture(0))])
    calls = []
    handle = denoiser_of(pipe).register_forward_hook(lambda *_: calls.append(1))
    bare = pipe(**call()).images
    bare_calls = len(calls)
    used = replace(preset("monitor"), detectors=(), watch_steps=(0.0, 0.5))
    result = Shield(pipe, used, gallery, thresholds=[], calibrate="never")(**call())
    handle.remove()
    assert np.array_equal(bare, result.images) and len(calls) == 2 * bare_calls
    for verdict in result.verdicts:
        assert [(s.detector, s.step) for s in verdict.scores] == [("gallery_preview", 0), ("gallery_preview", 1)]
        assert all(np.isfinite(s.value) and s.nearest == "work-1" for s in verdict.scores)
