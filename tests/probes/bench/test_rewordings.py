"""Rewordings of captions, and one that the shipped thresholds of the first step let through."""

import pytest

from probes.bench.rewordings import DEV, HELDOUT, REWORDINGS, Rewording
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


def test_the_shipped_thresholds_find_a_reworded_caption_late_and_its_copy_does_not_leave():
    """Of dev, so it shows that things fit together, not how many are found. One call: 5 steps, then 25 again."""
    pipe, manifest = load("testbed", device="cpu"), load_manifest()
    work = next(item for item in manifest.works("dev") if item.captions[0] == CAPTION)
    prompt, call = DEV[0].of(CAPTION), {"num_inference_steps": 25, "guidance_scale": 3.0}
    with quiet(pipe), counted(denoiser_of(pipe)) as cost:
        output = Shield(pipe, calibrate="never")(prompt, generator=generators([2040]), **call)
    verdict = output.verdicts[0]
    late = next(reason for reason in verdict.reasons if reason.kind == "above_threshold")
    assert (late.detector, late.step) == ("structure_gap", 4) and not verdict.scores[0].flagged
    assert verdict.status == "mitigated" and verdict.extra_calls >= 5
    assert cost.evaluations == 2 * 5 + 2 * 25 + (verdict.extra_calls - 5)  # guided steps in two rows, proposals in one
    assert copy_judge().copied(output.images, [open_image(work.file)]) == [[]]
