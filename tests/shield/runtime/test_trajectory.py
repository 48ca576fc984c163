"""Late looks on the tiny models: step 2 of 3 flags one prompt of four, which is then drawn again alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from shield import Shield
from shield.calibration.detectors import NegativeSampling
from shield.calibration.trajectories import asked_detectors, calibrate_trajectory
from shield.detectors import KeptStructure, NoiseGap, Stability, StructureGap
from shield.errors import BadRequestError, NotCalibratedError
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.model.prediction import prediction_type
from shield.runtime.policy import Policy, preset
from shield.runtime.settings import models_of
from shield.runtime.trajectory import (
    USUAL_POINTS,
    DetectorAt,
    can_look_again,
    detectors_at,
    looks_apart,
    points_read,
    told_joined,
)
from shield.thresholds import load_thresholds, save_threshold
from tests.shield.calls import NEGATIVES, PROMPTS, STEPS, counted, noises, options, state, thresholds

POINTS = (0.0, 0.5)  # steps 1 and 2 of 3
NULL = Policy(mitigations=(NullPrompt(),), points=POINTS)
HIGH = 1e9
_made = {}


def joint(pipe, early=HIGH, late=HIGH):
    """Thresholds of both points with these values."""
    key = (models_of(pipe), type(pipe.scheduler), prediction_type(pipe.scheduler))
    if key not in _made:
        asked = detectors_at((StructureGap(),), POINTS)
        _made[key] = calibrate_trajectory(pipe, asked, NEGATIVES, [0], 0.1, "tiny", NegativeSampling(STEPS, 5.0, 25))
    return [replace(t, value=late if t.options["point"] else early) for t in _made[key]]


def late_scores(pipe, prompts):
    verdicts = Shield(pipe, NULL, thresholds=joint(pipe))(prompts, **options(len(prompts))).verdicts
    return [verdict.scores[-1].value for verdict in verdicts]


def highest(pipe):
    """(row that scores highest at the late look, a threshold that only it exceeds)."""
    scores = late_scores(pipe, PROMPTS)
    second, first = sorted(scores)[-2:]
    return scores.index(first), (first + second) / 2


def test_nothing_flagged_is_bit_equal_without_an_extra_call_and_scored_at_each_point(any_pipe):
    bare, bare_rows = counted(any_pipe, lambda: any_pipe(PROMPTS, **options(4)))
    shield = Shield(any_pipe, Policy(points=POINTS), thresholds=joint(any_pipe))
    result, rows = counted(any_pipe, lambda: shield(PROMPTS, **options(4)))
    assert rows == bare_rows and np.array_equal(result.images, bare.images)
    for verdict in result.verdicts:
        assert [(s.detector, s.step) for s in verdict.scores] == [("structure_gap", 0), ("kept_structure", 1)]
        assert (verdict.status, verdict.scored, verdict.extra_calls) == ("passed", True, 0)


def test_an_image_flagged_late_is_drawn_again_alone_and_the_others_stay_bit_equal(any_pipe):
    row, limit = highest(any_pipe)
    bare, empty = any_pipe(PROMPTS, **options(4)).images, any_pipe([""] * 4, **options(4)).images
    before, noise = state(any_pipe), noises(4)
    shield = Shield(any_pipe, NULL, thresholds=joint(any_pipe, late=limit))
    result, rows = counted(any_pipe, lambda: shield(PROMPTS, **options(), generator=noise))
    assert rows == [8] * STEPS + [2] * STEPS
    assert [np.array_equal(a, b) for a, b in zip(bare, result.images, strict=True)] == [i != row for i in range(4)]
    assert np.allclose(result.images[row], empty[row], atol=1e-3)
    verdict = result.verdicts[row]
    assert (verdict.index, verdict.status, verdict.mitigation) == (row, "mitigated", "null_prompt")
    assert [v.extra_calls for v in result.verdicts] == [STEPS if i == row else 0 for i in range(4)]
    reason = verdict.reasons[0]
    assert (reason.kind, reason.detector, reason.step) == ("above_threshold", "kept_structure", 1)
    assert str(reason).endswith("at step 2") and verdict.flagged
    assert {k: v for k, v in state(any_pipe).items() if k != "scheduler"} == {
        k: v for k, v in before.items() if k != "scheduler"
    }
    once = noises(4)
    any_pipe(PROMPTS, **options(), generator=once)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(once, noise, strict=True))


def test_where_nothing_else_is_in_the_call_it_ends_at_the_flag(pipe):
    score = late_scores(pipe, [PROMPTS[0]])[0]
    shield = Shield(pipe, NULL, thresholds=joint(pipe, late=score / 2))
    result, rows = counted(pipe, lambda: shield(PROMPTS[0], **options(1)))
    assert rows == [2] * 2 + [2] * STEPS
    assert result.verdicts[0].extra_calls == 2 and result.verdicts[0].status == "mitigated"
    assert np.allclose(result.images, pipe("", **options(1)).images, atol=1e-3)


def test_a_redrawn_image_starts_from_its_own_noise_whatever_the_scheduler_scales(pipe):
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    noise = [torch.Generator().manual_seed(5) for _ in range(3)]  # one for all four images
    first = Shield(pipe, NULL, thresholds=joint(pipe))(PROMPTS, **options(), generator=noise[0])
    scores = [verdict.scores[-1].value for verdict in first.verdicts]
    made = joint(pipe, late=sum(sorted(scores)[-2:]) / 2)
    row = scores.index(max(scores))
    result = Shield(pipe, NULL, thresholds=made)(PROMPTS, **options(), generator=noise[1])
    empty = pipe([""] * 4, **options(), generator=noise[2]).images
    assert result.verdicts[row].status == "mitigated" and np.allclose(result.images[row], empty[row], atol=1e-3)


def test_several_images_for_a_prompt(pipe):
    call = options(generator=noises(4), num_images_per_prompt=2)
    scores = [v.scores[-1].value for v in Shield(pipe, NULL, thresholds=joint(pipe))(PROMPTS[:2], **call).verdicts]
    row, made = scores.index(max(scores)), joint(pipe, late=sum(sorted(scores)[-2:]) / 2)
    shield = Shield(pipe, NULL, thresholds=made)
    result, rows = counted(pipe, lambda: shield(PROMPTS[:2], **{**call, "generator": noises(4)}))
    assert rows == [8] * STEPS + [2] * STEPS
    assert [v.status == "mitigated" for v in result.verdicts] == [i == row for i in range(4)]


def test_what_is_flagged_again_gets_the_next_mitigation_and_then_nothing(pipe):
    low = joint(pipe, late=1e-9)
    policy = Policy(mitigations=(EmbeddingMix(), NullPrompt()), points=POINTS)
    both = Shield(pipe, policy, thresholds=low)("the cat, a picture by anna", **options(1)).verdicts[0]
    assert (both.status, both.mitigation) == ("mitigated", "null_prompt")
    assert [reason.step for reason in both.reasons].count(1) == 2
    one = Shield(pipe, replace(policy, mitigations=(EmbeddingMix(),)), thresholds=low)
    result = one("the cat, a picture by anna", **options(1))
    assert result.verdicts[0].status == "blocked" and np.ptp(result.images) == 0.0


@pytest.mark.parametrize(("change", "status"), [({"retries": 0}, "blocked"), ({"on_flag": "block"}, "blocked")])
def test_without_retries_it_is_blocked(pipe, change, status):
    row, limit = highest(pipe)
    shield = Shield(pipe, replace(NULL, **change), thresholds=joint(pipe, late=limit))
    result, rows = counted(pipe, lambda: shield(PROMPTS, **options(4)))
    assert rows == [8] * STEPS and result.verdicts[row].status == status
    assert {v.status for v in result.verdicts if v.index != row} == {"passed"}


def test_on_flag_report_tells_the_step_and_changes_nothing(pipe):
    row, limit = highest(pipe)
    shield = Shield(pipe, replace(NULL, on_flag="report"), thresholds=joint(pipe, late=limit))
    result, rows = counted(pipe, lambda: shield(PROMPTS, **options(4)))
    assert rows == [8] * STEPS and np.array_equal(result.images, pipe(PROMPTS, **options(4)).images)
    assert [v.flagged for v in result.verdicts] == [i == row for i in range(4)]
    assert result.verdicts[row].reasons[0].step == 1 and result.verdicts[row].status == "passed"


def test_without_points_the_usual_ones_count_where_thresholds_for_all_are_at_hand(pipe):
    plain, asked = thresholds(pipe, HIGH), detectors_at((StructureGap(),), USUAL_POINTS)
    made = calibrate_trajectory(pipe, asked, NEGATIVES, [0], 0.1, "tiny", NegativeSampling(6, 5.0, 25))
    made = [replace(t, value=HIGH) for t in made]

    def steps(held, **more):
        call = options(1, **{"num_inference_steps": 6, **more})
        return [score.step for score in Shield(pipe, thresholds=held)(PROMPTS[0], **call).verdicts[0].scores]

    assert steps(plain) == [0] and steps([*plain, *made]) == [0, 2]
    assert steps([*plain, made[0]]) == [0]
    assert steps([*plain, *made], guidance_scale=2.0) == steps([*plain, *made], num_inference_steps=12) == [0]


def test_points_on_one_step_are_one_look_with_the_whole_budget(pipe, caplog):
    """Of 2 steps 0 and 0.4 are both the first: the threshold is that of one point alone."""
    asked = detectors_at((StructureGap(),), USUAL_POINTS)
    sampling = NegativeSampling(2, 5.0, 25)
    both = calibrate_trajectory(pipe, asked, NEGATIVES, [0], 0.1, "tiny", sampling)
    alone = calibrate_trajectory(pipe, detectors_at((StructureGap(),), (0.0,)), NEGATIVES, [0], 0.1, "tiny", sampling)
    assert [(t.value, t.fpr, t.setting) for t in both[:1]] == [(t.value, t.fpr, t.setting) for t in alone]
    call = options(1, num_inference_steps=2)
    with caplog.at_level("INFO", "shield"):
        usual = Shield(pipe, thresholds=[*thresholds(pipe, HIGH), *both])(PROMPTS[0], **call).verdicts[0]
        assert not any("one look" in record.message for record in caplog.records)
        given = Shield(pipe, replace(NULL, points=USUAL_POINTS), thresholds=both)(PROMPTS[0], **call).verdicts[0]
    assert "Of 2 steps the points 0 and 0.4 fall on step 1, which is one look." in caplog.messages
    for verdict in (usual, given):
        assert [(score.step, score.threshold) for score in verdict.scores] == [(0, both[0].value)]
    assert told_joined((0.0, 0.18, 0.5), 4) == told_joined((0.18, 0.0), 4)
    assert told_joined(USUAL_POINTS, 6) is None and told_joined((0.0, 0.1, 0.9, 1.0), 5).count("fall on") == 2


def test_given_points_without_thresholds_are_told_with_the_command(pipe):
    shield = Shield(pipe, NULL, thresholds=joint(pipe))
    shield.thresholds = []
    with pytest.raises(NotCalibratedError, match=r"diffshield calibrate --model YOUR_MODEL .* --points 0,0.5"):
        shield(PROMPTS[0], **options(1))


def test_given_points_are_calibrated_on_the_first_call_and_kept(pipe):
    def made():
        return Shield(pipe, NULL, thresholds=[], fpr=0.2, calibrate="auto")

    first, rows = counted(pipe, lambda: made()(PROMPTS[0], **options(1)))
    scores = first.verdicts[0].scores
    assert [s.step for s in scores] == [0, 1] and None not in [s.threshold for s in scores]
    again, fewer = counted(pipe, lambda: made()(PROMPTS[0], **options(1)))
    assert len(rows) > len(fewer) + 4
    assert [replace(s, file=None) for s in again.verdicts[0].scores] == [replace(s, file=None) for s in scores]


def test_a_service_calibrates_its_points_ahead(pipe):
    safe = Shield(pipe, NULL, fpr=0.2, calibrate="auto", thresholds=[])
    made = safe.calibrate(steps=STEPS, guidance_scale=4.0)
    assert sorted(t.options["point"] for t in made) == list(POINTS)
    result, rows = counted(pipe, lambda: safe(PROMPTS[0], **options(1, guidance_scale=4.0)))
    assert len(rows) <= 2 * STEPS and [s.step for s in result.verdicts[0].scores] == [0, 1]


def test_thresholds_of_points_are_kept_in_files_beside_those_of_before(pipe, tmp_path):
    made = joint(pipe, 1.0, 2.0)
    for threshold in made:
        save_threshold(threshold, tmp_path)
    assert sorted(load_thresholds(tmp_path), key=lambda t: t.value) == made
    assert {t.options["point"] for t in made} == set(POINTS) and len({t.options["budget"] for t in made}) == 1


def test_which_detectors_can_look_again():
    assert can_look_again(StructureGap()) and can_look_again(NoiseGap())
    assert not can_look_again(Stability()) and not can_look_again(StructureGap(first_k=2))
    asked = detectors_at((StructureGap(), Stability(), NoiseGap()), (0.5, 0.0, 0.5))
    assert [(one.name, one.point) for one in asked] == [
        ("structure_gap", 0.0),
        ("kept_structure", 0.5),
        ("noise_gap", 0.0),
        ("noise_gap", 0.5),
    ]
    assert asked_detectors(asked) == [StructureGap(), NoiseGap()]  # each with half of the budget
    assert {one.step(25) for one in asked} == {0, 12}
    assert DetectorAt(NoiseGap(), 1.0, "", NoiseGap()).step(25) == 24


def test_what_compares_with_the_first_step_never_looks_there():
    assert can_look_again(KeptStructure())
    (look,) = detectors_at((KeptStructure(),), (0.0, 0.4))
    assert (look.point, points_read([look])) == (0.4, [0.0, 0.4]) and looks_apart([look], 2) == []
    assert [one.name for one in looks_apart(detectors_at((StructureGap(),), USUAL_POINTS), 2)] == ["structure_gap"]


@pytest.mark.parametrize("points", [(), (1.5,), (-0.1, 0.0)])
def test_points_are_shares(points):
    with pytest.raises(BadRequestError, match="points"):
        Policy(points=points)


def test_presets_follow_what_is_at_hand():
    assert {preset(name).points for name in ("monitor", "balanced", "strict")} == {None}
