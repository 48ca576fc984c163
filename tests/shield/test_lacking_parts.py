"""Pipelines without text encoders or an autoencoder, and calls within torch.inference_mode, are judged or refused in a
sentence.
"""

import pytest
import torch

from shield import Shield
from shield.errors import BadRequestError, MissingSignalError
from shield.mitigations import GalleryRepulsion
from shield.model.conditioning import encoded
from shield.protected.gallery import Gallery
from shield.runtime.policy import Policy
from tests.shield.calls import noises, options, thresholds
from tests.shield.test_every_family import limits, made
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def without_text_encoders(way):
    """A pipeline, and a call of it with embeddings."""
    pipe, call = made(way)
    found = encoded(pipe, ["the cat"])
    given = {"prompt_embeds": found.embeds}
    if way != "flux":
        given["negative_prompt_embeds"] = found.embeds * 0
    if found.pooled is not None:
        given["pooled_prompt_embeds"] = found.pooled
    if found.pooled is not None and way != "flux":
        given["negative_pooled_prompt_embeds"] = found.pooled * 0
    for name in ENCODERS:
        if hasattr(pipe, name):
            setattr(pipe, name, None)
    return pipe, {**call(prompt=None, generator=noises(1)), **given}


@pytest.mark.parametrize("way", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("policy, status", [("names", "passed"), ("monitor", "passed"), ("strict", "blocked")])
def test_embeddings_without_text_encoders_are_unverified(way, policy, status):
    pipe, call = without_text_encoders(way)
    verdict = Shield(pipe, policy, calibrate="never")(**call).verdicts[0]
    assert (verdict.status, verdict.scored) == (status, False)
    assert "prompt_embeddings" in {reason.kind for reason in verdict.reasons}


def test_a_policy_that_raises_says_which_part_is_missing():
    pipe, call = without_text_encoders("sd")
    with pytest.raises(MissingSignalError, match="has no text encoder.*load it with its text encoders"):
        Shield(pipe, thresholds=thresholds(tiny_sd(), 1e9))(**call)


def test_latents_without_an_autoencoder():
    pipe, judged = tiny_sd(), thresholds(tiny_sd(), 1e9)
    bare = pipe("the cat", **options(1, output_type="latent")).images
    pipe.vae = None
    output = Shield(pipe, thresholds=judged)("the cat", **options(1, output_type="latent"))
    assert torch.equal(output.images, bare) and output.verdicts[0].scored
    gallery = Gallery()
    gallery.add([("work", tiny_picture())])
    with pytest.raises(BadRequestError, match="no autoencoder"):
        Shield(pipe, thresholds=judged, gallery=gallery)("the cat", **options(1, output_type="latent"))


def test_a_mitigation_that_differentiates_within_inference_mode():
    gallery = Gallery()
    gallery.add([("work", tiny_picture())])
    with torch.inference_mode():
        shield = Shield(
            tiny_sd(), Policy(mitigations=(GalleryRepulsion(),)), gallery, thresholds=thresholds(tiny_sd(), -1.0)
        )
        assert shield("the cat", **options(1)).verdicts[0].mitigation == "gallery_repulsion"


def test_embeddings_as_a_list():
    """Z-Image takes and returns one tensor for each prompt."""
    pipe, call = made("zimage")
    embeds, negative = pipe.encode_prompt("the cat")
    given = call(prompt=None, prompt_embeds=embeds, negative_prompt_embeds=negative, generator=noises(1))
    output = Shield(pipe, thresholds=limits(pipe, "zimage", 1e9))(**given)
    assert [verdict.reasons[0].kind for verdict in output.verdicts] == ["prompt_embeddings"]
    with pytest.raises(BadRequestError, match="prompt_embeds is a tensor, or a list"):
        Shield(pipe, thresholds=limits(pipe, "zimage", 1e9))(**{**given, "prompt_embeds": [1.0]})


@pytest.mark.parametrize("way", ["flux", "qwenimage", "flux2", "flux2dev", "zimage"])
def test_latents_are_compared_with_the_gallery(way):
    pipe, call = made(way)
    gallery = Gallery()
    gallery.add([("work", pipe(**call(output_type="pil")).images[1])])
    output = Shield(pipe, "monitor", gallery, thresholds=[], calibrate="never")(**call(output_type="latent"))
    assert [reason.work for reason in output.verdicts[1].reasons if reason.kind == "copy"] == ["work"]
