"""The OpenCLIP's training: contrastive on rendered pictures and on the works, half of the pictures blurred.

Its text tower conditions the twins, its two towers judge alignment and retrieval; blur makes generated pictures, which
are soft, less foreign.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from PIL import Image, ImageFilter
from transformers import CLIPTextModel

from probes.testbed.training import text
from probes.testbed.training.rendered import RenderedPictures
from probes.testbed.training.trainer import Loss, Schedule
from probes.testbed.world import Work

WORKS = 0.125  # share of works in a batch, so that their captions are told apart
BLURRED = 0.5


def pairs_at(
    step: int, schedule: Schedule, pictures: RenderedPictures, works: Sequence[tuple[Work, Image.Image]]
) -> dict[str, Image.Image]:
    """Caption -> picture for a batch; equal captions would be false negatives, so each comes once."""
    rng = np.random.default_rng([schedule.seed, step])
    pairs: dict[str, Image.Image] = {}
    while len(pairs) < schedule.batch:
        if rng.uniform() < WORKS:
            work, image = works[int(rng.integers(len(works)))]
            caption = work.fill(rng)
        else:
            at = int(rng.integers(len(pictures)))
            caption, image = pictures.captions[at], Image.fromarray(pictures.crop(at))
        if rng.uniform() < BLURRED:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
        pairs.setdefault(caption, image)
    return pairs


def loss_function(
    model: open_clip.CLIP,
    pictures: RenderedPictures,
    works: Sequence[tuple[Work, Image.Image]],
    schedule: Schedule,
    device: str,
) -> Loss:
    """step -> symmetric InfoNCE."""
    tokenizer = text.new_tokenizer()

    def loss(step: int) -> dict[str, torch.Tensor]:
        pairs = pairs_at(step, schedule, pictures, works)
        images = model.encode_image(text.small_pixels(list(pairs.values())).to(device), normalize=True)
        texts = model.encode_text(text.tokens(tokenizer, list(pairs)).to(device), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * images @ texts.T
        target = torch.arange(len(pairs), device=device)
        entropy = torch.nn.functional.cross_entropy
        value = (entropy(logits, target) + entropy(logits.T, target)) / 2
        return {"loss": value, "accuracy": (logits.argmax(1) == target).float().mean()}

    return loss


def text_encoder(model: open_clip.CLIP) -> CLIPTextModel:
    return text.text_tower(model, len(text.new_tokenizer()))


@torch.inference_mode()
def found_among(
    model: open_clip.CLIP, images: Sequence[Image.Image], captions: Sequence[str], among: int = 20, seed: int = 1
) -> float:
    """Share of pictures whose own caption ranks first among `among` different ones."""
    tokenizer, rng = text.new_tokenizer(), np.random.default_rng(seed)
    ours = model.encode_image(text.small_pixels(images), normalize=True)
    theirs = model.encode_text(text.tokens(tokenizer, list(captions)), normalize=True)
    scores, found = ours @ theirs.T, []
    for k, caption in enumerate(captions):
        others = [int(j) for j in rng.permutation(len(captions)) if captions[int(j)] != caption][: among - 1]
        found.append(bool((scores[k, k] > scores[k, others]).all()))
    return float(np.mean(found))
