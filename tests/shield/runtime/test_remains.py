"""A mitigated picture is compared on its way with what the flagged prompt predicted first: step 2 of 3 here."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from shield import Shield
from shield.calibration.detectors import NegativeSampling, calibrate
from shield.detectors import KeptStructure, StructureGap
from shield.hooks.recording import recorded
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.runtime import remains
from shield.runtime.policy import Policy
from shield.types import Trace
from tests.shield.calls import NEGATIVES, PROMPTS, STEPS, counted, options, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture, tiny_variant
from tests.tiny_transformers import tiny_zimage

BOTH = Policy(mitigations=(EmbeddingMix(), NullPrompt()))
PROMPT = "the cat, a picture by anna"


@dataclass(frozen=True)
class Unchanged:
    """A mitigation that does nothing, so that the memory is drawn."""

    name: str = "unchanged"
    needs_prompt: bool = False

    def conditioned(self, context):
        return context.original


@pytest.fixture
def flagged_once(monkeypatch):
    """The detector flags whatever is asked for, and passes every mitigation."""
    monkeypatch.setattr("shield.runtime.scoring.CallScorer.holds", lambda *args: True)


def seen(pipe, policy, prompts=PROMPT, value=1e-9, **more):
    """(what the shield hands out, the denoiser's rows) where the first step flags every prompt."""
    shield = Shield(pipe, policy, thresholds=thresholds(pipe, value))
    count = 1 if isinstance(prompts, str) else len(prompts)
    return counted(pipe, lambda: shield(prompts, **{**options(count), **more}))


def told(verdict):
    return [(score.step, score.flagged) for score in verdict.scores if score.detector == remains.NAME]


def test_a_picture_that_still_is_the_memory_is_drawn_again_with_the_next_mitigation(pipe, flagged_once, monkeypatch):
    monkeypatch.setattr(remains, "LIMIT", -1.0)  # untrained models remember nothing; a cosine of -1 scores -0.7
    result, _ = seen(pipe, replace(BOTH, mitigations=(Unchanged(), NullPrompt())))
    verdict = result.verdicts[0]
    assert (verdict.status, verdict.mitigation) == ("mitigated", "null_prompt")
    assert told(verdict) == [(1, True)]
    assert [r.detector for r in verdict.reasons if r.step == 1] == [remains.NAME]
    assert np.allclose(result.images, pipe("", **options(1)).images, atol=1e-3)


def test_what_is_compared_is_the_flagged_prompt_s_first_prediction(any_pipe, flagged_once, monkeypatch):
    """Unchanged draws on from the same predictions, so that the score is what kept_structure says of the bare call."""
    monkeypatch.setattr(remains, "LIMIT", 1e9)
    with recorded(any_pipe, KeptStructure.needs, first_k=2) as trace:
        any_pipe(PROMPTS, **options(4))
    expected = KeptStructure(first_k=2).score(trace).tolist()
    shield = Shield(any_pipe, replace(BOTH, mitigations=(Unchanged(),)), thresholds=thresholds(any_pipe, 1e-9))
    verdicts = shield(PROMPTS, **options(4)).verdicts
    found = [score.value for v in verdicts for score in v.scores if score.detector == remains.NAME]
    assert found == pytest.approx(expected, abs=1e-3)


@dataclass(frozen=True)
class Emptied(Unchanged):
    """Another prompt: the empty one, which isn't taken for null_prompt."""

    def conditioned(self, context):
        return context.null


@pytest.mark.parametrize(("make", "more"), [(tiny_sd, {}), (tiny_zimage, {"max_sequence_length": 48})])
def test_and_the_mitigated_prompt_s_later_one(make, more, flagged_once, monkeypatch):
    """Also where a call can't hold another text, and its rows are predicted apart (Z-Image)."""
    monkeypatch.setattr(remains, "LIMIT", 1e9)
    monkeypatch.setattr("shield.runtime.remains.POINT", 0.5)
    more = {"height": 64, "width": 64, **more}
    call = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np", **more}
    shown = []
    for prompt in (PROMPT, ""):
        pipe = make()
        with recorded(pipe, KeptStructure.needs) as trace:
            pipe(prompt, **call, generator=torch.Generator().manual_seed(0))
        shown.append(trace.steps)
    expected = float(KeptStructure(first_k=2).score(Trace([shown[0][0], shown[1][2]])))
    policy = Policy(mitigations=(Emptied(),), detectors=(StructureGap(),))
    made = calibrate(
        pipe, policy.detectors, NEGATIVES, range(4), 0.01, "tiny", NegativeSampling(4, 5.0, 50, tuple(more.items()))
    )
    shield = Shield(pipe, policy, thresholds=[replace(t, value=1e-9) for t in made])
    verdict = shield(PROMPT, **call, generator=torch.Generator().manual_seed(0)).verdicts[0]
    (found,) = [score.value for score in verdict.scores if score.detector == remains.NAME]
    assert found == pytest.approx(expected, abs=2e-3)


def test_another_picture_goes_on_and_nothing_is_predicted_again(pipe, flagged_once, monkeypatch):
    monkeypatch.setattr(remains, "LIMIT", 1e9)
    result, rows = seen(pipe, BOTH)
    assert result.verdicts[0].mitigation == "embedding_mix" and told(result.verdicts[0]) == [(1, False)]
    monkeypatch.setattr(remains, "POINT", 0.0)  # never
    without, same = seen(pipe, BOTH)
    assert rows == same and np.array_equal(result.images, without.images)
    assert told(without.verdicts[0]) == []


def test_the_others_of_the_call_stay_bit_equal(pipe, flagged_once, monkeypatch):
    monkeypatch.setattr(remains, "LIMIT", 1e9)
    shield = Shield(pipe, BOTH, thresholds=thresholds(pipe))
    scores = [v.scores[0].value for v in shield(PROMPTS, **options(4)).verdicts]
    row, value = scores.index(max(scores)), sum(sorted(scores)[-2:]) / 2
    monkeypatch.setattr(remains, "LIMIT", -1.0)
    result, rows = seen(pipe, replace(BOTH, mitigations=(Unchanged(), NullPrompt())), PROMPTS, value)
    bare = pipe(PROMPTS, **options(4)).images
    assert [np.array_equal(a, b) for a, b in zip(bare, result.images, strict=True)] == [i != row for i in range(4)]
    assert [told(v) for v in result.verdicts] == [[(1, True)] if i == row else [] for i in range(4)]
    assert len(rows) == STEPS + 1 + STEPS  # one for the first mitigation; the second needs none


@pytest.mark.parametrize("change", [{"retries": 0}, {"mitigations": (Unchanged(),)}])
def test_without_another_attempt_it_is_blocked(pipe, flagged_once, monkeypatch, change):
    monkeypatch.setattr(remains, "LIMIT", -1.0)
    result, _ = seen(pipe, replace(BOTH, **{"mitigations": (Unchanged(), NullPrompt()), **change}))
    assert result.verdicts[0].status == "blocked" and np.ptp(result.images) == 0.0


def test_a_name_alone_is_no_memory(pipe, monkeypatch):
    monkeypatch.setattr(remains, "LIMIT", -1.0)
    policy = replace(BOTH, mitigations=(EmbeddingMix(),))
    shield = Shield(pipe, policy, concepts=["anna"], thresholds=thresholds(pipe, 1e9))
    verdict = shield(PROMPT, **options(1)).verdicts[0]
    assert (verdict.status, verdict.mitigation, told(verdict)) == ("mitigated", "embedding_mix", [])


def test_one_step_has_nothing_later(pipe, flagged_once):
    result, _ = seen(pipe, BOTH, num_inference_steps=1)
    assert told(result.verdicts[0]) == []


def test_where_a_picture_was_given_its_structure_is_wanted(flagged_once, monkeypatch):
    monkeypatch.setattr(remains, "LIMIT", -1.0)
    monkeypatch.setattr(remains, "POINT", 0.5)  # the second of the two steps that this strength leaves
    pipe = tiny_variant(StableDiffusionImg2ImgPipeline, "text")
    given = {"image": tiny_picture(), "strength": 0.8}
    shield = Shield(pipe, BOTH, thresholds=thresholds(pipe, 1e-9, more=given))
    verdict = shield(PROMPT, **given, **options(1)).verdicts[0]
    assert verdict.mitigation == "embedding_mix" and told(verdict) == []
    monkeypatch.setattr("shield.wrapper.gives_picture", lambda request: False)
    assert told(shield(PROMPT, **given, **options(1)).verdicts[0]) == [(1, True)]
