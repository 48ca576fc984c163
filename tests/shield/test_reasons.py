"""A reason is data; its sentence is made in one place, and nothing is lost on the way to JSON."""

import json
from typing import get_args

import pytest

from shield.reasons import FLAGS, SENTENCES, FlagKind, OtherKind, Reason
from shield.types import Verdict


def test_every_kind_has_a_sentence_that_can_be_made():
    assert SENTENCES.keys() == {*get_args(FlagKind), *get_args(OtherKind)}
    for kind in SENTENCES:
        text = str(Reason(kind, "pdq", 0.98765, 0.9, 4, "work-1", "1 (image)"))
        assert text and not set("{}") & set(text) and "None" not in text


@pytest.mark.parametrize(
    "reason, says",
    [
        (Reason("above_threshold", "noise_gap", 3.14159, 2.0, 0), "noise_gap 3.142 is above 2"),
        (
            Reason("above_threshold", "gallery_preview", 0.98, 0.9, 4, "a {work} of 3"),
            "gallery_preview of a {work} of 3 at step 5 0.98 is above 0.9",
        ),
        (Reason("concept", work="Bolto", detail="leetspeak"), "the prompt mentions Bolto (leetspeak)"),
        (
            Reason("concept", value=0.71234, work="Bolto", detail="meaning"),
            "the prompt mentions Bolto (meaning, 0.712)",
        ),
        (
            Reason("given_copy", "pdq", 0.98765, work="w", detail="2 (image)"),
            "given picture 2 (image) copies w (pdq 0.988)",
        ),
        (Reason("callback", step=0, detail="mask"), "a callback changed the mask after step 1"),
        (Reason("latents_changed"), "something other than the scheduler changed the latents (exchanged under way)"),
        (
            Reason("latents_changed", step=2),
            "something other than the scheduler changed the latents after step 3 (exchanged under way)",
        ),
    ],
)
def test_sentences(reason, says):
    assert str(reason) == says


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_reason_that_is_a_flag_flags_its_verdict(kind):
    """Also where the policy only reports, and where nothing else in the verdict tells, as of a given picture."""
    assert Verdict(0, "a cat", "passed", reasons=(Reason(kind),)).flagged == (kind in FLAGS)


def test_reasons_as_json():
    reason = Reason("above_threshold", "noise_gap", 3.0, 2.0, 0)
    told = json.loads(Verdict(0, "a cat", "blocked", reasons=(reason,)).to_json())["reasons"]
    assert told == [
        {
            "kind": "above_threshold",
            "text": "noise_gap 3 is above 2",
            "detector": "noise_gap",
            "value": 3.0,
            "threshold": 2.0,
            "step": 0,
            "work": None,
            "detail": None,
        }
    ]
