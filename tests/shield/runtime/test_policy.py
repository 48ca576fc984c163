import math
from dataclasses import replace

import pytest

from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError
from shield.reasons import Reason
from shield.runtime.policy import Policy, decided, preset
from shield.types import Mention, Score

LOW, HIGH = Score("noise_gap", 1.0, 2.0, 0), Score("noise_gap", 3.0, 2.0, 0)
NO_THRESHOLD, NAN = Score("noise_gap", 1.0, None, 0), Score("noise_gap", math.nan, 2.0, 0)
MENTION = Mention("Bolto", "b0lto", 0, 5, "leetspeak", "a robot")


def test_a_score_is_flagged_above_its_threshold_only():
    assert [s.flagged for s in (LOW, HIGH, NO_THRESHOLD, NAN)] == [False, True, None, None]
    assert Score("x", 2.0, 2.0, 0).flagged is False


@pytest.mark.parametrize("action", ["mitigate", "block", "report"])
def test_any_flag_leads_to_the_policys_action(action):
    policy = Policy(on_flag=action)
    assert decided([LOW, HIGH], [], policy).action == action
    assert decided([LOW], [MENTION], policy).action == action
    assert decided([LOW], [], policy).action == "pass"
    assert decided([HIGH], [], policy).reasons == (Reason("above_threshold", "noise_gap", 3.0, 2.0, 0),)
    assert decided([], [MENTION], policy).reasons == (Reason("concept", work="Bolto", detail="leetspeak"),)


@pytest.mark.parametrize("score", [NO_THRESHOLD, NAN])
def test_what_cannot_be_judged_is_closed_unless_the_policy_says_otherwise(score):
    assert decided([LOW, score], [], Policy(on_unscored="block")).action == "block"
    assert decided([score], [], Policy()).action == "block"
    passed = decided([score], [], Policy(on_unscored="pass"))
    assert passed.action == "pass" and not passed.scored and passed.reasons == (Reason("unscored", "noise_gap"),)


def test_a_flag_outweighs_a_missing_judgement():
    decision = decided([NAN, HIGH], [], Policy(on_unscored="pass"))
    assert decision.action == "mitigate" and not decision.scored and len(decision.reasons) == 2


def test_presets():
    assert preset("monitor").on_flag == "report" and preset("monitor").on_unscored == "pass"
    assert preset("balanced") == Policy()
    assert preset("strict").on_unscored == "block" and preset("strict").extra_uncond
    with pytest.raises(BadRequestError, match="monitor, balanced, strict"):
        preset("lax")


BAD = [{"on_flag": "ask"}, {"on_unscored": "mitigate"}, {"on_copy": ""}, {"extra_calls": -1}]


@pytest.mark.parametrize("option", BAD)
def test_unknown_options_are_refused(option):
    with pytest.raises(BadRequestError, match=next(iter(option))):
        Policy(**option)


def test_what_is_recorded_follows_from_the_detectors():
    policy = Policy(detectors=(NoiseGap(first_k=3), StructureGap()))
    later = {"latents"}  # of kept_structure, which looks at later points in structure_gap's place
    assert policy.horizon == 3 and policy.needs == {"noise_cond", "noise_uncond"} | later
    assert replace(policy, points=(0.0,)).needs == {"noise_cond", "noise_uncond"}
    assert Policy(detectors=()).horizon == 0
