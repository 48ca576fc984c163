"""What the attack finds never passes "strict": nobody can read an embedding, whatever the detectors say about it."""

import numpy as np
import pytest
import torch

from probes.attacks import AdversarialEmbedding
from probes.model.generate import encode_pictures, encode_prompts
from probes.testbed.manifest import load_manifest
from probes.types import Goal, Subject
from shield import Gallery, Shield
from shield.model.loading import load
from shield.protected.pictures import open_image
from shield.reasons import Reason

pytestmark = pytest.mark.usefixtures("shipped")
CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}


def test_a_searched_embedding_is_unverified_with_and_without_a_gallery():
    pipe, (work, another) = load("testbed", device="cpu"), [item for item in load_manifest().works() if item.file][:2]
    subject = Subject(pipe, "testbed")
    latents, start = encode_pictures(subject, [open_image(work.file)])[0], encode_prompts(subject, work.captions[:1])[0]
    (found,) = AdversarialEmbedding(steps=2, batch=1).search(subject, [Goal(work.id, latents, start, 0)])
    embeds = found.prompt_embeds[2][None].to(pipe.device, pipe.dtype)
    gallery = Gallery()
    gallery.add([(another.id, open_image(another.file))])
    for given in (None, gallery):
        safe = Shield(pipe, "strict", given)
        output = safe(prompt_embeds=embeds, generator=torch.Generator().manual_seed(1), **CALL)
        verdict = output.verdicts[0]
        assert (verdict.status, verdict.scored) == ("blocked", False)
        assert Reason("prompt_embeddings") in verdict.reasons and np.ptp(output.images) == 0.0
