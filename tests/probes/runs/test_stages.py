"""Stages: once each, honest about time, cost and why not."""

import json

import pytest
import torch

from probes.errors import RunError
from probes.runs.stage_log import Skip, Stages


def test_a_complete_stage_isnt_done_again(tmp_path):
    layer, calls = torch.nn.Linear(2, 2), []
    for _ in range(2):
        stages = Stages(tmp_path, layer)
        assert stages.do("scan", lambda: calls.append(layer(torch.zeros(3, 2))) or {"note": 1})
    assert len(calls) == 1
    (entry,) = json.loads((tmp_path / "stages.json").read_text())
    assert (entry["status"], entry["evaluations"], entry["detail"]) == ("complete", 3, {"note": 1})


def test_a_skipped_stage_says_why_and_is_tried_again(tmp_path):
    def refuse():
        raise Skip("There is no twin.")

    stages = Stages(tmp_path)
    assert not stages.do("twin", refuse) and stages.limits() == ["There is no twin."]
    assert Stages(tmp_path).do("twin", lambda: None)
    assert Stages(tmp_path).limits() == []


def test_a_damaged_list_of_stages_is_one_sentence(tmp_path):
    (tmp_path / "stages.json").write_text('[{"stage": "sc')
    with pytest.raises(RunError, match="is damaged") as caught:
        Stages(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_interrupted_stage_keeps_what_it_cost(tmp_path):
    layer = torch.nn.Linear(2, 2)

    def stop():
        layer(torch.zeros(3, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, layer).do("before", stop)
    assert Stages(tmp_path).entry("before")["status"] == "partial"
    stages = Stages(tmp_path, layer)
    assert stages.do("before", lambda: None)
    assert stages.entry("before")["evaluations"] == 3 and stages.entry("before")["status"] == "complete"
