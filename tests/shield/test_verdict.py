"""Verdicts for machines."""

import json

import pytest

from shield.types import Nearest, Score, Verdict

HIGH, LOW = Score("noise_gap", 2.0, 1.0, 0), Score("noise_gap", 0.5, 1.0, 0)
COPY, OTHER = (Nearest("work", "pixels", 0.9, 0.5, copied) for copied in (True, False))


@pytest.mark.parametrize(
    "found, flagged",
    [
        ({}, False),
        ({"scores": (LOW,), "nearest": OTHER}, False),
        ({"scores": (LOW, HIGH)}, True),
        ({"concepts": ("someone",)}, True),
        ({"nearest": COPY}, True),
        ({"scores": (Score("noise_gap", float("nan"), 1.0, 0),)}, False),
    ],
)
def test_flagged_says_what_was_found_whatever_the_policy_did(found, flagged):
    """Under monitor a flagged image leaves with the status "passed"."""
    assert Verdict(0, "x", "passed", **found).flagged is flagged
    assert Verdict(0, "x", "blocked", **found).flagged


def test_json_has_no_number_that_is_none():
    verdict = Verdict(0, "x", "passed", (Score("noise_gap", float("nan"), 1.0, 0), HIGH), nearest=COPY)
    told = json.loads(verdict.to_json(), parse_constant=pytest.fail)
    assert told == verdict.to_dict()
    assert [(one["value"], one["flagged"]) for one in told["scores"]] == [(None, None), (2.0, True)]
    assert told["nearest"]["work"] == "work" and told["flagged"] is True
