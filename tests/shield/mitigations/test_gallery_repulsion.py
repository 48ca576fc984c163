"""Repulsion from the gallery: the correlation's slope, down to the limit, and copies that don't come out."""

import numpy as np
import pytest
import torch
from PIL import Image

from shield import Shield
from shield.errors import GalleryError, MissingSignalError
from shield.mitigations import GalleryRepulsion
from shield.model.conditioning import Conditioning
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery, thumbnail
from shield.runtime.likeness import correlation
from shield.runtime.policy import Policy
from shield.types import MitigationContext
from tests.shield.calls import PROMPTS, options


def picture(seed, side=32):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_correlation_is_the_gallerys(side):
    gallery, seen = Gallery(), picture(3, side)
    gallery.add([("a", picture(1)), ("b", picture(2))])
    score, work, found = gallery.toward(seen)
    assert (score, work) == (pytest.approx(gallery.similar([seen])[0][0]), gallery.similar([seen])[0][1])
    colors = torch.tensor(np.asarray(seen)).float()[None] / 255
    assert correlation(colors, torch.from_numpy(found)).item() == pytest.approx(score, abs=2e-2 if side > 32 else 1e-4)


def test_the_mirror_images_thumbnail_is_mirrored():
    gallery, one = Gallery(), picture(1)
    gallery.add([("a", one)])
    score, _, found = gallery.toward(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert score == pytest.approx(1.0) and np.allclose(found.reshape(32, 32, 3)[:, ::-1].ravel(), thumbnail(one))
    with pytest.raises(GalleryError, match="no picture"):
        Gallery().toward(one)


def case(likeness, scale=4.0, uncond=1.0):
    one = torch.tensor([[3.0, 1.0]])
    prompt = Conditioning(torch.ones(1, 1, 1))
    return MitigationContext(
        0,
        5,
        scale,
        one,
        None if uncond is None else torch.full((1, 2), uncond),
        prompt,
        None,
        prompt,
        lambda c: one,
        likeness=likeness,
    )


def toward_x(prediction):
    return prediction[0, 0] / prediction.norm(), "work"


@pytest.mark.parametrize("despecify", [True, False])
def test_the_guided_prediction_is_moved_to_the_limit(despecify):
    one = case(toward_x)
    changed = GalleryRepulsion(0.3, despecify).predicted(one)
    guided = one.noise_uncond + 4.0 * (changed - one.noise_uncond)
    assert 0.2 < float(toward_x(guided)[0]) <= 0.3 + 1e-4 and one.memory["works"] == {"work"}


def test_despecification_by_hand():
    """Guided (9, 1): correlation 0.99, so guidance is off, 1 + 3 * (1 - 1); at 0.25 it is 1 + 3 * 0.5."""
    repulsion = GalleryRepulsion(limit=2.0)
    assert torch.allclose(repulsion.predicted(case(toward_x)), torch.tensor([[1 + 2 / 4.0, 1.0]]))
    quarter = repulsion.predicted(case(lambda p: (torch.tensor(0.25), "work")))
    assert torch.allclose(quarter, torch.tensor([[1 + 2 * 2.5 / 4.0, 1.0]]))
    assert torch.equal(GalleryRepulsion(2.0, False).predicted(case(toward_x)), torch.tensor([[3.0, 1.0]]))
    assert torch.equal(repulsion.predicted(case(toward_x, uncond=None)), torch.tensor([[3.0, 1.0]]))
    with pytest.raises(MissingSignalError, match="gallery"):
        repulsion.predicted(case(None))


def test_in_the_shield_the_others_stay_to_the_bit(pipe):
    bare = pipe(PROMPTS, **options(4, output_type="pil")).images
    gallery = Gallery(correlation=1.0)
    gallery.add([("work", bare[1])])
    policy = Policy(detectors=(), mitigations=(GalleryRepulsion(limit=0.0),), on_copy="report", retries=0)
    screen = Concepts([Concept("a dog", substitute="a thing")])
    shield = Shield(pipe, policy, gallery=gallery, concepts=screen, thresholds=[], calibrate="never")
    result = shield(PROMPTS, **options(4, output_type="pil"))
    assert [v.mitigation for v in result.verdicts] == [None, "gallery_repulsion", None, None]
    assert result.verdicts[1].extra_calls == 0
    same = [a.tobytes() == b.tobytes() for a, b in zip(bare, result.images, strict=True)]
    assert same == [True, False, True, True]
