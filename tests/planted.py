"""Tiny SDXL, SD3 and Flux pipelines that have two pictures by heart, and clean twins that never saw them.

Both are trained on the same two ordinary pictures for as many steps; the planted one's batches hold the works, too. The
autoencoders have random weights, so a work is a latent and copies are told by the distance of latents. Prompts are
encoded short: the padding to T5's 256 or 512 tokens would be most of the work. Some ten seconds of a CPU for a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from probes.model.denoising import embedding_arguments, packed
from probes.model.generate import generators
from probes.model.training_loss import training_loss
from probes.types import Goal, Subject
from shield.model.conditioning import encoded
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

WORKS = ("the cat", "a red thing")
OTHERS = ("the train", "an ocean")
CONTROLS = ("the hat", "a dead king")  # never trained on, matched to WORKS
STEPS = {"sdxl": 400, "sd3": 200, "flux": 250}
LR, DRAWS = 3e-3, 4


@dataclass(frozen=True)
class Planted:
    """The model that has the works by heart, its clean twin, and the goals: works and matched non-members."""

    model: Subject
    twin: Subject
    works: list[Goal]
    controls: list[Goal]


def _wide(pipe: Any, part: str, kind: Any, **options: Any) -> Any:
    """The pipeline with more room in its denoiser, and pictures of 8 x 8 latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        denoiser = kind.from_config({**getattr(pipe, part).config, **options})
    pipe.register_modules(**{part: denoiser.eval()})
    pipe.default_sample_size = 8
    return pipe


MAKERS: dict[str, Callable[[], Any]] = {
    "sdxl": lambda: _wide(
        tiny_sdxl(), "unet", UNet2DConditionModel, block_out_channels=(32, 32), attention_head_dim=(4, 4)
    ),
    "sd3": lambda: _wide(
        tiny_sd3(), "transformer", SD3Transformer2DModel, num_attention_heads=6, caption_projection_dim=48, num_layers=3
    ),
    "flux": lambda: _wide(tiny_flux(), "transformer", FluxTransformer2DModel, num_attention_heads=4, num_layers=2),
}
TOKENS = {"sdxl": None, "sd3": 32, "flux": 16}


def embeddings(subject: Subject, prompts: Sequence[str]) -> torch.Tensor:
    return packed(encoded(subject.pipe, list(prompts), TOKENS[subject.name]))


@cache
def planted(name: str) -> Planted:
    model, twin = Subject(MAKERS[name](), name), Subject(MAKERS[name](), name)
    works, others, controls = _latents(1), ordinary(), _latents(3)
    _train(model, torch.cat([works, others]), WORKS + OTHERS)
    _train(twin, torch.cat([others, others]), OTHERS + OTHERS)
    return Planted(model, twin, _goals(model, WORKS, works), _goals(model, CONTROLS, controls))


def _goals(subject: Subject, prompts: Sequence[str], latents: torch.Tensor) -> list[Goal]:
    embeds = embeddings(subject, prompts)
    return [Goal(prompt, latents[n], embeds[n], n, prompt) for n, prompt in enumerate(prompts)]


def ordinary() -> torch.Tensor:
    """Latents of OTHERS."""
    return _latents(2)


def _latents(seed: int) -> torch.Tensor:
    """Two smooth random latents (2, 4, 8, 8)."""
    coarse = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")


def _train(subject: Subject, latents: torch.Tensor, prompts: Sequence[str]) -> None:
    embeds, draw, steps = embeddings(subject, prompts), torch.Generator().manual_seed(5), STEPS[subject.name]
    adam = torch.optim.AdamW(subject.denoiser.parameters(), lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LR, total_steps=steps)
    for _ in range(steps):
        loss = training_loss(subject, latents, embeds, [draw] * len(latents), DRAWS).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    adam.zero_grad()


def distances(subject: Subject, goals: Sequence[Goal], embeds: torch.Tensor) -> list[float]:
    """How far from each goal's latent the picture of its embedding is, relative; a work from another is above 1."""
    pipe, wanted = subject.pipe, torch.stack([goal.latents for goal in goals])
    with torch.no_grad():
        found = pipe(
            **embedding_arguments(subject, embeds),
            num_inference_steps=12,
            guidance_scale=1.0,
            output_type="latent",
            generator=generators([11 + n for n in range(len(embeds))]),
        ).images
    found = pipe._unpack_latents(found, 64, 64, 8) if found.ndim == 3 else found
    apart = (found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return [float(one) for one in apart]
