"""Pictures drawn once: the bytes of the draws, chunk by chunk."""

from pathlib import Path

import numpy as np
import pytest

from probes.testbed.drawing import scenes
from probes.testbed.drawing.sprites import Sprites
from probes.testbed.training.rendered import RenderedPictures, render


def test_rendered_pictures_are_the_draws_and_a_lost_chunk_comes_back_equal(
    sprites: Sprites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.testbed.training.rendered.CHUNK", 3)
    draw = lambda rng: scenes.draw_scene(rng, sprites)  # noqa: E731
    render(tmp_path, "some", 7, draw, (5,))
    pictures = RenderedPictures(tmp_path, ["some"])
    assert len(pictures) == len(pictures.captions) == 7
    rng = np.random.default_rng([5, 1])
    expected = [draw(rng) for _ in range(3)][2]
    assert np.array_equal(pictures.crop(5), np.asarray(expected.image)) and pictures.captions[5] == expected.caption
    assert np.array_equal(pictures.crop(5, 3, 9, 20), np.asarray(expected.image)[3:23, 9:29])
    before = pictures.crop(4).copy()
    (tmp_path / "some-001.npy").unlink()
    render(tmp_path, "some", 7, draw, (5,))
    assert np.array_equal(RenderedPictures(tmp_path, ["some"]).crop(4), before)
    with pytest.raises(FileNotFoundError, match="none"):
        RenderedPictures(tmp_path, ["none"])
