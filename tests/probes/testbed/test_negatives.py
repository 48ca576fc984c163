"""Which pictures copy any work, which captions are negatives, and which of them a memory answers."""

import numpy as np
import pytest
from PIL import Image

from probes.testbed.criterion import copy_judge
from probes.testbed.fresh import fresh_pictures
from probes.testbed.manifest import load_manifest
from probes.testbed.negatives import negative_captions, spilling
from shield.model.loading import load


def test_a_copy_of_any_work_is_found_whichever_work_it_is() -> None:
    references = [Image.open(w.file).convert("RGB") for w in load_manifest().works()[:20] if w.file]
    fresh = fresh_pictures(load_manifest())(np.random.default_rng(4))
    judge, made = copy_judge(), [fresh, references[13], fresh, references[2]]
    assert judge.copied(made, references) == [[], [13], [], [2]]
    for name in ("tiled_l2", "pdq"):
        found = judge.copies_by_metric(made, references)[name]
        assert found.shape == (4, 20) and np.argwhere(found == 1).tolist() == [[1, 13], [3, 2]]


def test_a_metric_that_can_not_say_is_nan() -> None:
    flat = Image.new("RGB", (128, 128), "gray")
    found = copy_judge().copies_by_metric([flat], [flat])
    assert np.isnan(found["pdq"]).all() and found["tiled_l2"].tolist() == [[1.0]]


def test_the_splits_share_no_negative_and_no_work() -> None:
    manifest = load_manifest()
    dev, heldout = (
        {c for some in negative_captions(split, manifest).values() for c in some} for split in ("dev", "heldout")
    )
    works = {caption for work in manifest.works() for caption in work.captions}
    assert not dev & heldout and not (dev | heldout) & works and min(len(dev), len(heldout)) >= 200


@pytest.mark.slow
def test_the_caption_of_a_memorized_work_spills_and_a_scene_does_not() -> None:
    manifest = load_manifest()
    work = manifest.works("dev", min_rung=manifest.rungs[-1])[0]
    scene = negative_captions("dev", manifest)["scenes"][0]
    pipe = load("testbed")
    assert spilling(pipe, [work.captions[0], scene], manifest, seeds=(1,)) == {work.captions[0]: work.id}
