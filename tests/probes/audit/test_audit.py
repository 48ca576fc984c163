"""The closed loop on tiny models with random weights: every stage, resuming, and what can't be judged."""

import json
import zlib
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from probes.audit.session import AuditSession, GroundTruth
from probes.audit.stages import complete
from probes.inputs.cohorts import Cohorts, Sizes, cohorts_of_prompts
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord
from probes.inputs.truth import copy_judge
from probes.model.generate import encode_pictures, encode_prompts, generate
from probes.pruners import pruned
from probes.report.summary import Summary
from probes.runs.folder import Run
from probes.runs.progress import bars
from probes.runs.records import Record
from probes.types import Goal, Subject, UnitMask
from tests.probes.audit.small import PLAN
from tests.probes.exact import bits
from tests.tiny import tiny_sd


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Six unlike pictures."""
    folder = tmp_path_factory.mktemp("works")
    for n in range(6):
        picture = Image.effect_mandelbrot((64, 64), (-2 + n / 4, -1, 1, 1), 20 + 30 * n).convert("RGB")
        picture.rotate(60 * n, fillcolor=(40 * n, 200 - 30 * n, 90)).save(folder / f"{n}.png")
    return [folder / f"{n}.png" for n in range(6)]


@pytest.fixture(scope="module")
def known(files):
    cohorts = Cohorts(
        members=(
            PromptRecord("w1", "the cat", "work", files[0], "VM", 9, 9),
            PromptRecord("w2", "red", "work", files[1], "VM", 9, 9),
        ),
        locate=(PromptRecord("w3", "a thing", "work", files[2], "VM", 9, 9),),
        ladder=(PromptRecord("w4", "other", "work", files[3], "VM", 2, 2),),
        nonmembers=(PromptRecord("n1", "new", "nonmember", files[4], None, 0, 0),),
        scenes=(PromptRecord("s1", "a scene", "scene"),),
        keep=(PromptRecord("k1", "a thing to keep", "scene"),),
    )
    return GroundTruth(
        cohorts,
        copy_judge([Image.open(file).convert("RGB") for file in files], "test"),
        Subject(tiny_sd(seed=1), "clean"),
        None,
    )


def loop(folder, known, plan=PLAN, resume=False):
    run = Run.start(folder, {"plan": "test"}, resume=resume, kind="audit", model={"sha256": "0"})
    subject = Subject(tiny_sd(), "tiny")
    before = bits(subject.denoiser)
    with run, bars(False) as track:
        summary = complete(AuditSession(run, subject, known, plan, track))
        run.finish()
    assert bits(subject.denoiser) == before
    return summary, list(Run.open(folder).records())


@pytest.fixture(scope="module")
def done(tmp_path_factory, known):
    folder = tmp_path_factory.mktemp("audit") / "run"
    return folder, *loop(folder, known)


def count(records, stage):
    return sum(record["stage"] == stage for record in records)


def test_every_stage_leaves_its_records(done):
    folder, summary, records = done
    assert {stage: count(records, stage) for stage in dict.fromkeys(r["stage"] for r in records)} == {
        "work": 4,
        "scan": 5,
        "before": 10,
        "twin": 4,
        "pruned": 8,
        "random_pruned": 4,
        "attacked": 8,
        "nonmember_attacked": 4,
        "twin_attacked": 8,
        "surrogates": 3,
        "kept": 1,
        "hardened": 8,
        "hardened_attacked": 8,
        "hardened_nonmember_attacked": 4,
    }
    assert len({record["id"] for record in records}) == len(records)
    assert all((folder / record["picture"]).is_file() for record in records if record["picture"])
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert {key for record in records for key in record} <= get_type_hints(Record).keys()
    assert summary.keys() <= get_type_hints(Summary).keys()


def test_a_shield_that_isnt_calibrated_is_said_not_passed(done):
    _, summary, records = done
    assert count(records, "shielded") == 0
    assert any("shield wasn't tried" in limit for limit in summary["limits"])


def test_the_mask_is_located_with_other_works_than_it_is_judged_by(done):
    folder, summary, records = done
    assert summary["mask"]["prompts"] == ["w3"]
    assert not {r["item"] for r in records if r["stage"] in ("pruned", "attacked")} & set(summary["mask"]["prompts"])
    assert UnitMask.load(folder / "mask.safetensors").count() == summary["mask"]["weights"] > 0


def test_step_zero_is_the_caption_on_the_same_model(done):
    _, _, records = done
    pruned = {(r["item"], r["seed"]): r["picture"] for r in records if r["stage"] == "pruned"}
    zero = {
        (r["item"], r["seed"]): r["picture"] for r in records if r["stage"] == "attacked" and r["attack_steps"] == 0
    }
    assert len(zero) == 4 and all(pruned[key] == picture for key, picture in zero.items())


@pytest.mark.parametrize("stage", ["attacked", "nonmember_attacked", "twin_attacked"])
def test_attacks_run_on_the_model_they_name(done, known, stage):
    """Search and picture again, by hand: pruned model for the first two, untouched clean twin for the third."""
    folder, _, records = done
    record = next(r for r in records if r["stage"] == stage and r["attack_steps"] == 2)
    subject = known.twin if stage == "twin_attacked" else Subject(tiny_sd(), "tiny")
    mask = UnitMask({}) if stage == "twin_attacked" else UnitMask.load(folder / "mask.safetensors")
    target = next(t for t in known.cohorts.drawn() if t.id == record["item"])
    with pruned(subject, mask):
        goal = Goal(
            target.id,
            encode_pictures(subject, [reference_picture(target.reference)])[0],
            encode_prompts(subject, [target.prompt])[0],
            zlib.crc32(target.id.encode()),
        )
        found = PLAN.attack.search(subject, [goal])[0].prompt_embeds[2]
        stored = load_file(folder / "embeddings" / stage / f"{target.id}.safetensors")["2"]
        assert torch.allclose(found, stored, atol=1e-3)
        picture = generate(subject.pipe, stored[None], [record["seed"]], steps=2, guidance_scale=5.0)[0]
    with Image.open(folder / record["picture"]) as drawn:
        apart = np.abs(np.asarray(drawn, dtype=int) - np.asarray(picture, dtype=int))
    assert apart.max() <= 1 and record["model"] == subject.name


def test_every_attack_has_the_same_budget_and_its_controls(done):
    _, summary, _ = done
    assert [(row["stage"], row["attack_steps"], row["n"]) for row in summary["curve"]] == [
        ("attacked", 0, 4),
        ("attacked", 2, 4),
        ("nonmember_attacked", 0, 2),
        ("nonmember_attacked", 2, 2),
        ("twin_attacked", 0, 4),
        ("twin_attacked", 2, 4),
        ("hardened_attacked", 0, 4),
        ("hardened_attacked", 2, 4),
        ("hardened_nonmember_attacked", 0, 2),
        ("hardened_nonmember_attacked", 2, 2),
    ]
    assert {(gap["control"], gap["attack_steps"]) for gap in summary["gaps"] if gap["stage"] == "attacked"} == {
        (control, steps) for control in ("nonmember_attacked", "twin_attacked") for steps in (0, 2)
    }
    assert summary["hardening"]["works"] == ["w1", "w2"] and summary["hardening"]["dev"] == ["w3"]


def test_cost_of_each_stage_by_hand(done):
    _, summary, _ = done
    cost = {entry["stage"]: entry["evaluations"] for entry in summary["cost"]}
    assert cost["scan"] == 5 + 1  # first step; the unconditional half is shared
    assert cost["before"] == 10 * 2 * 2  # pictures, steps, halves
    assert cost["localize"] == (1 + 1) * 2  # one work and the base, one step, two halves
    assert cost["attacked"] == 2 * 2 + 4 * 2 * 2  # works x steps x batch, then pictures
    assert cost["twin_attacked"] == cost["attacked"]


def test_a_second_start_does_nothing_again(done, known):
    folder, summary, records = done
    again, same = loop(folder, known, resume=True)
    assert same == records and again == summary


@pytest.mark.parametrize("keep", [3, 25, 52, 64])
def test_a_run_that_was_cut_ends_the_same(done, known, tmp_path, keep):
    """Cut after some records, in the middle of a batch, with the stage that was running marked as partial."""
    folder, summary, records = done
    cut = tmp_path / "cut"
    loop_config = Run.start(cut, {"plan": "test"}, resume=False, kind="audit", model={"sha256": "0"})
    for record in records[:keep]:
        loop_config.append(record)
        if record["picture"]:
            (cut / record["picture"]).parent.mkdir(parents=True, exist_ok=True)
            (cut / record["picture"]).write_bytes((folder / record["picture"]).read_bytes())
    loop_config.finish("interrupted")
    again, found = loop(cut, known, resume=True)
    assert {r["id"]: r for r in found} == {r["id"]: r for r in records} and len(found) == len(records)
    for part in ("rows", "curve", "gaps", "ladder", "utility", "detector", "mask", "drift", "hardening"):
        assert again[part] == summary[part]


def test_prompts_that_nobody_knows_anything_about(tmp_path):
    cohorts = cohorts_of_prompts(
        [PromptRecord("prompt-000001", "a cat"), PromptRecord("prompt-000002", "red")], None, Sizes()
    )
    summary, records = loop(tmp_path / "run", GroundTruth(cohorts, None, None, None))
    assert {record["stage"] for record in records} == {"scan", "before", "benign"}
    assert all(record["copied"] is None and record["unjudged"] for record in records)
    assert {row["prompt"] for row in summary["highest"]} == {"a cat", "red"}
    assert (summary["agreement"]["own"]["n"], summary["agreement"]["benign"]["n"]) == (2, 3)
    statuses = {entry["stage"]: entry["status"] for entry in summary["cost"]}
    assert statuses["localize"] == statuses["attacked"] == statuses["twin"] == statuses["hardened"] == "skipped"
    assert summary["rows"][0]["rate"] is None and summary["rows"][0]["unscored"] == 4
    assert len(summary["limits"]) >= 3


def test_prompts_with_references_go_through_the_loop(tmp_path, files):
    """A model that copies everything: the references are its own pictures."""
    prompts = ["the cat", "red", "a thing", "other"]
    plan = replace(PLAN, picture_seeds=(1,))
    unknown = Cohorts(prompts=tuple(PromptRecord(prompt, prompt) for prompt in prompts))
    _, records = loop(tmp_path / "first", GroundTruth(unknown, None, None, None), plan)
    pictures = {r["item"]: tmp_path / "first" / r["picture"] for r in records if r["stage"] == "before"}
    targets = [PromptRecord(f"prompt-{n}", prompt, reference=pictures[prompt]) for n, prompt in enumerate(prompts)]
    judge = copy_judge([Image.open(file).convert("RGB") for file in files], "unlike pictures")
    summary, records = loop(tmp_path / "second", GroundTruth(Cohorts(prompts=tuple(targets)), judge, None, None), plan)
    assert all(r["copied"] for r in records if r["stage"] == "before")
    assert summary["mask"]["prompts"] == ["prompt-0", "prompt-2"]
    assert {r["item"] for r in records if r["stage"] == "attacked"} == {"prompt-1", "prompt-3"}
    assert summary["gaps"] == []
