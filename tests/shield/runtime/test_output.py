import numpy as np
import pytest
import torch
from PIL import Image

from shield.runtime.output import blanked, pil_images, with_verdicts
from tests.shield.calls import options
from tests.shield.test_every_family import once


def test_every_output_type_is_the_same_picture(pipe):
    want = np.asarray(pipe("the cat", **options(1, output_type="pil")).images[0])
    for output_type in ("np", "pt", "latent"):
        images = pipe("the cat", **options(1, output_type=output_type)).images
        assert np.array_equal(np.asarray(pil_images(pipe, images, output_type, (16, 16))[0]), want)


@pytest.mark.parametrize("way", ["flux", "chroma", "qwenimage", "flux2", "flux2dev"])
def test_packed_latents_are_the_same_picture(way):
    pipe, call = once(way)
    want = pipe(**call(output_type="pil")).images
    found = pil_images(pipe, pipe(**call(output_type="latent")).images, "latent", (64, 64))
    for one, other in zip(want, found, strict=True):
        assert abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_blank_picture_keeps_size_and_mode(mode):
    images = [Image.new(mode, (5, 7)), Image.new(mode, (5, 7))]
    blank = blanked(images, 1)
    assert blank[0] is images[0] and (blank[1].mode, blank[1].size) == (mode, (5, 7))
    assert set(np.asarray(blank[1]).ravel().tolist()) == {128}


def test_blank_arrays_and_latents_leave_the_original_alone():
    array, pixels, latents = np.ones((2, 4, 4, 3)), torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4, 4)
    for images, value in ((array, 0.5), (pixels, 0.5), (latents, 0.0)):
        blank = blanked(images, 0)
        assert (blank[0] == value).all() and (blank[1] == 1).all() and (images == 1).all()


def test_a_tuple_stays_a_tuple():
    images, nsfw = with_verdicts(("old", None), "new", [])
    assert (images, nsfw) == ("new", None)
