"""Fresh pictures of the works' kinds: decided by a generator, with the sprites that ship and without any."""

import shutil
from pathlib import Path

import numpy as np

from probes.testbed.fresh import fresh_pictures
from probes.testbed.manifest import SPRITES, load_manifest
from tests.probes.tiny_testbed import tiny_testbed


def test_a_testbed_with_sprites_draws_with_them_and_one_without_needs_none(sources: Path, tmp_path: Path) -> None:
    manifest = load_manifest(tiny_testbed(tmp_path, captions=2) / "testbed" / "manifest.json")
    made = [fresh_pictures(manifest)(np.random.default_rng(seed)) for seed in (3, 3, 4)]
    shutil.copytree(sources, manifest.folder / SPRITES)
    made += [fresh_pictures(manifest)(np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert {(picture.size, picture.mode) for picture in made} == {((128, 128), "RGB")}
    one, again, two, *_ = pictures = [picture.tobytes() for picture in made]
    assert one == again and pictures[3] == pictures[4] and len({one, two, pictures[3], pictures[5]}) == 4
