"""Rewordings of captions, and one that the shipped thresholds of the first step let through."""

import json

import pytest

from probes.bench.caption_templates import DEV, HELDOUT, REWORDINGS, Rewording
from probes.bench.rewordings import (
    WAYS,
    bench_rewordings,
    benign_rewordings,
    figures,
    flagged_late,
    rewordings_of,
    table,
)
from probes.model.generate import generators, quiet
from probes.runs.cost import counted
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from shield import Shield
from shield.errors import BadRequestError
from shield.hooks.intercept import denoiser_of
from shield.model.loading import load
from shield.protected.pictures import open_image

CAPTION = "the tender summit, a painting by tomas ekberg"


def test_parts_of_both_kinds_of_captions():
    whole = Rewording("all", "{title}|{medium}|{artist}|{surname}|{caption}")
    assert whole.of(CAPTION) == f"the tender summit|painting|tomas ekberg|ekberg|{CAPTION}"
    product = "gentle prairie phone case by zendora"
    assert whole.of(product) == f"gentle prairie|phone case|zendora|zendora|{product}"
    with pytest.raises(BadRequestError, match="TITLE, a MEDIUM by ARTIST"):
        whole.of("a dog")


def test_the_splits_share_no_template_and_every_template_changes_the_caption():
    templates = [one.template for some in REWORDINGS.values() for one in some]
    assert len(set(templates)) == len(templates) == len(DEV) + len(HELDOUT)
    assert len({one.of(CAPTION) for one in (*DEV, *HELDOUT)} - {CAPTION}) == len(templates)
    asked = {"filler", "synonym", "typo", "order", "weights", "repetition", "mixture"}
    assert all(len(some) >= 24 and asked <= {one.kind for one in some} for some in REWORDINGS.values())


def test_typing_errors_are_where_the_template_says():
    typo = Rewording("typo", "{title_swapped}|{title_dropped}|{artist_swapped}|{artist_doubled}|{noun}")
    assert typo.of(CAPTION) == "the tender sumimt|the tender sumit|tomas ekbreg|tomas ekberrg|summit"


def row(work: str, copied: bool, weight: float, flagged: tuple[bool, bool, bool], seen: bool = False) -> dict:
    about = {"work": work, "kind": "typo", "flagged": dict(zip(WAYS, flagged, strict=True)), "weight": weight}
    return about | ({"copied": copied, "seen": seen} if weight else {})


def test_a_drawn_rewording_counts_for_as_many_as_it_stands_for():
    """Two copies leave the first step, one of them both points; of two flagged ones that stand for four each one is."""
    works = [
        row("a", True, 1.0, (False, False, True)),
        row("b", True, 1.0, (False, False, False), seen=True),
        row("b", False, 1.0, (False, False, False)),
        row("a", True, 4.0, (True, True, True)),
        row("b", False, 4.0, (True, False, True)),
        row("b", False, 0.0, (True, True, True)),
    ]
    benign = [
        row("x", False, 1.0, (True, False, False)),
        row("y", True, 1.0, (True,) * 3),
        row("z", False, 0.0, (False,) * 3),
    ]
    found = figures(works, benign)
    first, noise, both = (found["ways"][way] for way in WAYS)
    assert found["bare_copies"]["count"] == 6.0 and found["bare_copies"]["share"] == 1.0
    assert (first["left"]["count"], first["left"]["share"]) == (2.0, pytest.approx(1 / 3))
    assert (both["left"]["count"], both["left"]["from_works"], both["left_with_gallery"]["count"]) == (1.0, 1, 0.0)
    assert noise["left"]["count"] == 2.0 and first["flagged"] == 3
    assert found["benign_that_draw_a_work"] == 1
    assert [way["benign_flagged"]["count"] for way in (first, both)] == [1, 0] and first["benign_flagged"]["of"] == 2
    assert found["kinds"]["typo"]["left"] == {WAYS[0]: 2, WAYS[2]: 1}
    assert "| heldout | structure_gap, first step | 3 of 6 |" in table({"splits": {"heldout": found}})
    assert found["by_sscd"] is None


def test_what_left_is_also_counted_by_sscd():
    works = [
        row("a", True, 1.0, (False, False, True)) | {"copied_by_sscd": True},
        row("b", True, 1.0, (False, False, False)) | {"copied_by_sscd": False},
        row("c", True, 4.0, (True, True, True)) | {"copied_by_sscd": True},
    ]
    found = figures(works, [row("x", False, 1.0, (False,) * 3)])
    assert found["by_sscd"]["bare_copies"]["count"] == 5.0 and found["by_sscd"]["disagree"] == 1
    assert [found["by_sscd"]["left"][way]["count"] for way in (WAYS[0], WAYS[2])] == [1.0, 0.0]
    assert "; SSCD 5 |" in table({"splits": {"dev": found}})


def test_every_template_is_asked_of_every_work_on_a_noise_of_its_own():
    asked = rewordings_of("heldout", works=2)
    assert len(asked) == 2 * len(HELDOUT) == len({(one.work, one.prompt) for one in asked})
    assert len({one.seed for one in asked}) == len(asked)
    assert [one.prompt for one in benign_rewordings("dev", [CAPTION])] == [DEV[0].of(CAPTION)]


def test_a_measurement_goes_on_from_its_parts_and_keeps_the_other_split(tmp_path, monkeypatch):
    """Real scores and pictures of two rewordings of one work; the second time nothing is drawn."""
    few = {split: some[7:9] for split, some in REWORDINGS.items()}
    monkeypatch.setattr("probes.bench.rewordings.REWORDINGS", few)
    call = {"parts": tmp_path / "parts", "works": 1, "sample": 1.0, "device": "cpu"}
    monkeypatch.setattr("probes.bench.rewordings.negative_captions", lambda *_: {"nonmembers": [CAPTION]})
    dev = bench_rewordings(tmp_path, split="dev", **call)
    assert dev["splits"]["dev"]["rewordings"] == dev["splits"]["dev"]["drawn"] == 2
    assert dev["splits"]["dev"]["bare_copies"]["count"] + dev["splits"]["dev"]["benign_that_draw_a_work"] > 0
    monkeypatch.setattr("probes.bench.rewordings.drawn_as_far", None)
    monkeypatch.setattr("probes.bench.rewordings.generate", None)
    assert (
        bench_rewordings(tmp_path, split="dev", **call) == dev == json.loads((tmp_path / "rewordings.json").read_text())
    )
    with pytest.raises(BadRequestError, match="A split of dev, heldout"):
        bench_rewordings(tmp_path, split="test", **call)


@pytest.mark.slow
def test_the_shipped_thresholds_find_a_reworded_caption_late_and_its_copy_does_not_leave():
    """Of dev, so it shows that things fit together, not how many are found. One call: 5 steps, then 25 again."""
    pipe, sampling = load("testbed", device="cpu"), load_manifest().sampling
    call = {"num_inference_steps": sampling["steps"], "guidance_scale": sampling["guidance_scale"]}
    work, asked = flagged_late(pipe)
    with quiet(pipe), counted(denoiser_of(pipe)) as cost:
        output = Shield(pipe, calibrate="never")(asked.prompt, generator=generators([asked.seed]), **call)
    verdict = output.verdicts[0]
    late = next(reason for reason in verdict.reasons if reason.kind == "above_threshold")
    assert (late.detector, late.step) == ("structure_gap", 4) and not verdict.scores[0].flagged
    assert verdict.status == "mitigated" and verdict.extra_calls >= 5
    assert cost.evaluations == 2 * 5 + 2 * 25 + (verdict.extra_calls - 5)  # guided steps in two rows, proposals in one
    assert copy_judge().copied(output.images, [open_image(work.file)]) == [[]]
