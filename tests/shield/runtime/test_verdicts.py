"""Verdicts for machines: told to a function, to a logger and to a file; and what kept a detector from judging."""

import json
import logging
import pickle
from dataclasses import replace

import pytest

from shield import Shield, VerdictLog
from shield.detectors import StructureGap
from shield.errors import BadRequestError
from shield.runtime.policy import Policy
from shield.runtime.settings import models_of
from tests.shield.calls import options, thresholds

TWO = ["the cat", "a dog"]


def test_verdicts_are_told_to_a_function_a_logger_and_a_file(pipe, tmp_path, caplog):
    told, file = [], tmp_path / "new" / "verdicts.jsonl"
    safe = Shield(pipe, thresholds=thresholds(pipe, 1e9), on_verdict=told.append)
    with caplog.at_level(logging.INFO, "shield.verdicts"):
        verdicts = safe(TWO, **options(2)).verdicts
    assert told == verdicts
    records = [record for record in caplog.records if record.name == "shield.verdicts"]
    assert [record.verdict for record in records] == verdicts
    assert records[0].getMessage() == "image 0 passed, not flagged: nothing found"
    safe.on_verdict = VerdictLog(file)
    for _ in range(2):
        safe(TWO, **options(2))
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["prompt"] for line in lines] == TWO * 2 and lines[0]["scores"][0]["threshold"] == 1e9
    assert pickle.loads(pickle.dumps(safe)).on_verdict == VerdictLog(file)
    with pytest.raises(BadRequestError, match="on_verdict is a function of a Verdict, or None; 'print'"):
        safe.on_verdict = "print"


def test_monitor_says_flagged(pipe, caplog):
    safe = Shield(pipe, "monitor", thresholds=thresholds(pipe, -1.0))
    with caplog.at_level(logging.INFO, "shield.verdicts"):
        (verdict,) = safe("the cat", **options(1)).verdicts
    assert verdict.flagged and verdict.status == "passed"
    assert "image 0 passed, flagged: structure_gap" in caplog.text and "the cat" not in caplog.text


def reasons(pipe, given, call=(), **policy):
    """What a policy that passes what can't be judged says about a prompt."""
    safe = Shield(pipe, Policy(on_unscored="pass", **policy), thresholds=given, calibrate="never")
    (verdict,) = safe("the cat", **{**options(1), **dict(call)}).verdicts
    assert not verdict.scored
    return [str(reason).removeprefix("structure_gap couldn't judge: ") for reason in verdict.reasons]


def test_what_could_not_be_judged_says_why(pipe):
    made = thresholds(pipe, 1.0)
    (said,) = reasons(pipe, [])
    assert said.startswith(
        "structure_gap has no threshold here: none was made for this checkpoint. To make one, run `diffshield"
    )
    (said,) = reasons(pipe, made, {"height": 128, "width": 64})
    assert "the run has latents of [4, 16, 8], calibrated for [4, 8, 8]" in said
    assert reasons(pipe, [], detectors=(StructureGap(first_k=9),)) == ["it reads 9 steps and this run has 3"]
    (said,) = reasons(pipe, made, {"guidance_scale": 1.0}, extra_uncond=False)
    assert "guidance is off" in said
    pipe.unet.conv_out.weight.data.fill_(float("nan"))
    named = models_of(pipe).denoiser
    mine = [replace(one, setting=replace(one.setting, model_sha256=named)) for one in made]
    assert reasons(pipe, mine) == ["its score is no number"]
