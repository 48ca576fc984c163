"""The ladder of distortions, its paired test by hand, and the verb that runs it."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from probes.attacks import ATTACKS, Paraphrase
from probes.attacks.paraphrase import distorted, format_ladder, ladder, paired_test
from probes.audit.plan import FULL
from probes.cli.main import app
from probes.model.generate import encode_prompts
from probes.types import Goal, Subject
from probes.verbs.attack import attack_plan
from shield.errors import BadRequestError
from tests.tiny import tiny_sd

CAPTION = "a painting of a red fox on a green hill at night"


@pytest.mark.parametrize("change", ["order", "drop", "spelling"])
def test_every_level_changes_what_the_one_before_did_and_more(change):
    words = CAPTION.split()
    levels = [distorted(CAPTION, share, change, 3) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert levels[0] == CAPTION and len(set(levels)) == 5 and levels[2] == distorted(CAPTION, 0.5, change, 3)
    if change == "drop":
        kept = [set(zip(*_matched(words, level.split()), strict=True)) for level in levels]
        assert [len(k) for k in kept] == [12, 9, 6, 3, 1]
    else:
        changed = [{n for n, (a, b) in enumerate(zip(words, level.split(), strict=True)) if a != b} for level in levels]
        assert all(len(one) <= len(two) for one, two in zip(changed, changed[1:], strict=False))
    if change == "order":
        assert all(sorted(level.split()) == sorted(words) for level in levels)


def _matched(words, kept):
    """Places of the kept words, greedily from the left."""
    places, start = [], 0
    for word in kept:
        start = words.index(word, start) + 1
        places.append(start)
    return places, kept


def test_short_captions():
    assert distorted("fox hill", 0.25, "order", 1) == "hill fox" and distorted("fox", 1, "order", 1) == "fox"
    assert distorted("fox", 1, "drop", 1) == "fox" and distorted("a", 1, "spelling", 1) == "aa"
    assert distorted("", 1, "drop", 1) == "" and sorted(distorted("fox", 1, "spelling", 1)) == ["f", "o", "x"]


def test_levels_are_embeddings_of_the_distorted_caption_and_cost_nothing():
    subject = Subject(tiny_sd(), "tiny")
    goal = Goal("w", torch.zeros(4, 8, 8), encode_prompts(subject, ["the cat can"])[0], 7, "the cat can")
    (found,) = Paraphrase(steps=2).search(subject, [goal], snapshots=(0,))
    assert list(found.prompts) == [0, 2] and found.prompts[0] == "the cat can" and found.evaluations == 0
    assert torch.allclose(found.prompt_embeds[0], goal.prompt_embeds, atol=1e-5)
    assert torch.allclose(found.prompt_embeds[2], encode_prompts(subject, [found.prompts[2]])[0], atol=1e-5)
    with pytest.raises(ValueError, match="no prompt"):
        Paraphrase().search(subject, [Goal("w", goal.latents, goal.prompt_embeds, 7)])
    for options in ({"steps": 0}, {"change": "meaning"}):
        with pytest.raises(ValueError, match="ladder"):
            Paraphrase(**options)


def test_the_paired_test_by_hand():
    """Gaps 1, 1, 1: one of eight signs gives as much. Gaps 1, 1, -1: the sum 1 is reached by four of eight."""
    assert paired_test([1, 1, 1], [0, 0, 0]) == 1 / 8 and paired_test([1, 1, 0], [0, 0, 1]) == 4 / 8
    assert paired_test([1, 0.5], [1, 0.5]) == 1.0 and paired_test([0, 0], [1, 1]) == 1.0
    draw = np.random.default_rng(0)
    ones, others = draw.random(10), draw.random(10)
    gaps = ones - others
    by_hand = [np.dot(signs, abs(gaps)) >= gaps.sum() - 1e-12 for signs in product((-1, 1), repeat=10)]
    assert paired_test(ones, others) == pytest.approx(np.mean(by_hand))
    many = paired_test([1.0] * 20, [0.0] * 20)
    assert 0 < many < 1e-3 and paired_test(np.arange(40) % 2, (np.arange(40) + 1) % 2) > 0.3


def test_the_ladder_pairs_works_and_seeds():
    def record(item, seed, level, copied, stage="attacked"):
        return {"stage": stage, "item": item, "seed": seed, "attack_steps": level, "copied": copied}

    records = [
        record(item, seed, level, level == 0 or (item == "c" and seed == 1))
        for item in "abc"
        for seed in (1, 2)
        for level in (0, 1)
    ]
    records += [
        record("a", 3, 0, True),
        record("d", 1, 0, True),
        record("d", 1, 1, None),
        record("a", 1, 1, True, "twin_attacked"),
    ]
    (row,) = ladder(records)
    assert (row["level"], row["works"], row["pairs"], row["unscored"]) == (1, 3, 6, 1)
    assert row["caption"] == 1.0 and row["distorted"] == pytest.approx(1 / 6) and row["p"] == 1 / 8
    assert "p = 0.125" in format_ladder([row])[0] and ladder([]) == []
    (unjudged,) = ladder([record("a", 1, 0, None), record("a", 1, 1, None)])
    assert unjudged["p"] is None and "nothing could be judged" in format_ladder([unjudged])[0]


def test_plans_by_name():
    assert list(ATTACKS)[:3] == ["adversarial_embedding", "prompt_search", "paraphrase"]
    plan = attack_plan(FULL, (0, 2), "caption", None, 4, "prompt_search")
    assert (plan.attack.name, plan.attack.steps, plan.attack.batch) == ("prompt_search", 2, 4)
    assert attack_plan(FULL, (0, 2), "caption", None, 4, "paraphrase").attack.evaluations == 0
    for method, init in (("nonsense", "caption"), ("paraphrase", "noise")):
        with pytest.raises(BadRequestError):
            attack_plan(FULL, (0, 2), init, None, 4, method)


@pytest.mark.parametrize("method, at", [("paraphrase", "0,1,2"), ("prompt_search", "0,1")])
def test_the_verb(monkeypatch, weights, tmp_path, method, at):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(weights))
    done = CliRunner().invoke(
        app,
        [
            "attack",
            "--out",
            str(tmp_path / "run"),
            "--attack",
            method,
            "--at",
            at,
            "--batch",
            "1",
            "--seeds",
            "1",
            "--steps",
            "1",
            "--device",
            "cpu",
        ],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    stages = json.loads((tmp_path / "run" / "stages.json").read_text())
    (detail,) = [entry["detail"] for entry in stages if entry["stage"] == "attacked"]
    words = next(iter(detail["prompts"].values()))
    assert detail["attack"] == method and words["0"] != words[at[-1]] or method == "prompt_search"
    assert detail["evaluations_per_work"] == (0 if method == "paraphrase" else 1)
    assert ("Level 1:" in done.stdout) == (method == "paraphrase")
