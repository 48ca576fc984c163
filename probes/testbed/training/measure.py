"""How good the finished parts are: round trips of the autoencoder, captions that the OpenCLIP finds.

On pictures that no training drew: scenes and creatures of a seed kept for this, and the works.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from probes.metrics import Metric
from probes.testbed import world
from probes.testbed.drawing import scenes
from probes.testbed.training import openclip
from probes.testbed.training.rendered import pixels
from probes.testbed.training.stages import Builder

SEED = 777


def round_trips(model: AutoencoderKL, pictures: list[Image.Image]) -> list[Image.Image]:
    """What the autoencoder makes of pictures."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        x = pixels([np.asarray(p) for p in pictures]).to(device)
        made = torch.cat([model.decode(model.encode(part).latent_dist.mean).sample for part in x.split(16)])
    arrays = ((made.clamp(-1, 1).cpu() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(a) for a in arrays]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """In dB, of 8-bit pictures."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(-10 * np.log10(max(np.square(difference / 255).mean(), 1e-10)))


def measured(builder: Builder, count: int, sscd: Metric | None) -> dict:
    """PSNR (and, where SSCD can be had, its median) of `count` scenes' and creatures' and of the works' round trips;
    shares of scenes, of their round trips and of verbatim works that are found by their caption among 20.
    """
    rng, sprites, model = np.random.default_rng(SEED), builder.sprites, builder.trained_autoencoder()
    drawn = [scenes.scene(rng, sprites) for _ in range(count)]
    groups = {
        "scenes": [s.image for s in drawn],
        "creatures": [scenes.creature(rng).image for _ in range(count)],
        "works": builder.works(),
    }
    figures: dict = {"autoencoder": {}}
    made = {name: round_trips(model, pictures) for name, pictures in groups.items()}
    for name, pictures in groups.items():
        each = [psnr(a, b) for a, b in zip(pictures, made[name], strict=True)]
        figures["autoencoder"][name] = {"n": len(each), "psnr": float(np.mean(each)), "lowest": min(each)}
        if sscd is not None:
            scores = sscd.compare(sscd.features(made[name]), sscd.features(pictures))
            figures["autoencoder"][name] |= {sscd.name: float(np.median(scores)), "lowest_sscd": float(scores.min())}
    if builder.result("openclip").exists():
        towers, captions = builder.trained_openclip().cpu(), [s.caption for s in drawn]
        verbatim = [k for k, w in enumerate(world.works()) if w.memorization == "VM"]
        works = [groups["works"][k] for k in verbatim], [world.works()[k].caption for k in verbatim]
        figures["found among 20"] = {
            "scenes": openclip.found_among(towers, groups["scenes"], captions),
            "works": openclip.found_among(towers, *works),
            "scenes' round trips": openclip.found_among(towers, made["scenes"], captions),
        }
    return figures
