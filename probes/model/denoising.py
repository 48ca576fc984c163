"""One call of a denoiser outside of its pipeline, the same for every family: latents (B, C, H, W) in, prediction out.

An embedding is one tensor (T, D) for a prompt: the states of all text encoders as the denoiser reads them and, where
the family has a pooled embedding, that one behind them, cut into rows of D and filled up with zeros. So what is
searched, kept in a file, trained on or compared is one tensor whatever the family, and SD's is what it always was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from probes.errors import UnsupportedError
from probes.types import Subject
from shield.model.conditioning import Conditioning
from shield.model.families import family_of

USUAL_SIDE = 1024  # pixels, of a pipeline that reads its size from no part
GUIDANCE = 1.0  # what a denoiser with distilled guidance is told here: as in fine-tuning, none


@dataclass(frozen=True)
class DenoiserCall:
    """What a family's denoiser takes beside latents, timestep and text.

    ``pooled_width`` reads the pooled embedding's width from the denoiser; ``more`` makes the other arguments for a
    pipeline, latents (B, C, H, W) and the number of text tokens.
    """

    pooled_width: Callable[[Any], int] = lambda denoiser: 0
    more: Callable[[Any, torch.Tensor, int], dict[str, Any]] = lambda pipe, latents, tokens: {}


def _pooled_beside_sizes(unet: Any) -> int:
    return unet.add_embedding.linear_1.in_features - 6 * unet.config.addition_time_embed_dim


def _pooled_projection(transformer: Any) -> int:
    return transformer.config.pooled_projection_dim


def _sizes(pipe: Any, latents: torch.Tensor, tokens: int) -> dict[str, Any]:
    """Original size, no crop, target size: what the pipeline says of a picture that is drawn in its own size."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[2:])
    sizes = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=latents.dtype)
    return {"added_cond_kwargs": {"time_ids": sizes.expand(len(latents), -1)}}


def _positions(pipe: Any, latents: torch.Tensor, tokens: int) -> dict[str, Any]:
    height, width = (side // 2 for side in latents.shape[2:])
    ids = pipe._prepare_latent_image_ids(len(latents), height, width, latents.device, latents.dtype)
    told = latents.new_full((len(latents),), GUIDANCE, dtype=torch.float32)
    return {
        "img_ids": ids,
        "txt_ids": ids.new_zeros(tokens, 3),
        "guidance": told if pipe.transformer.config.guidance_embeds else None,
    }


CALLS = {
    "sd": DenoiserCall(),
    "lcm": DenoiserCall(),
    "sdxl": DenoiserCall(_pooled_beside_sizes, _sizes),
    "sd3": DenoiserCall(_pooled_projection),
    "flux": DenoiserCall(_pooled_projection, _positions),
}


def call_of(pipe: Any) -> DenoiserCall:
    """The row of CALLS for this pipeline. UnsupportedError for a family without one."""
    found = CALLS.get(family_of(pipe).name)
    if found is None:
        raise UnsupportedError(
            f"Embeddings can be searched and trained on in Stable Diffusion 1 and 2, SDXL, SD3 and Flux; "
            f"{type(pipe).__name__} has another layout."
        )
    return found


def packed(conditioning: Conditioning) -> torch.Tensor:
    """Embeddings (B, T, D) of a conditioning, float32; see the module's docstring."""
    embeds, pooled = conditioning.embeds.float(), conditioning.pooled
    if pooled is None:
        return embeds
    width = embeds.shape[2]
    rows = -(-pooled.shape[1] // width)
    filled = pad(pooled.float(), (0, rows * width - pooled.shape[1]))
    return torch.cat([embeds, filled.reshape(len(embeds), rows, width).to(embeds)], dim=1)


def unpacked(pipe: Any, embeds: torch.Tensor) -> Conditioning:
    """The conditioning that embeddings (B, T, D) stand for; gradients pass."""
    call, family = call_of(pipe), family_of(pipe)
    width = call.pooled_width(getattr(pipe, family.denoiser))
    if not width:
        return Conditioning(embeds)
    tokens = embeds.shape[1] - -(-width // embeds.shape[2])
    return Conditioning(embeds[:, :tokens], embeds[:, tokens:].flatten(1)[:, :width])


def embedding_arguments(subject: Subject, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
    """Embeddings (B, T, D) as the arguments of the pipeline's own call."""
    found = unpacked(subject.pipe, embeds.to(subject.device, subject.dtype))
    pooled = {} if found.pooled is None else {"pooled_prompt_embeds": found.pooled}
    return {"prompt_embeds": found.embeds, **pooled}


def predict(
    subject: Subject,
    latents: torch.Tensor,
    time: torch.Tensor | float,
    embeds: torch.Tensor,
    denoiser: torch.nn.Module | None = None,
) -> torch.Tensor:
    """The prediction (B, C, H, W) for noisy latents under embeddings (B, T, D), in the denoiser's own precision.

    ``time`` is the scheduler's timestep, one for all or one for each row. ``denoiser`` takes the subject's place.
    """
    pipe, family = subject.pipe, family_of(subject.pipe)
    call, text = call_of(pipe), unpacked(pipe, embeds.to(subject.dtype))
    latents = latents.to(subject.dtype)
    times = torch.as_tensor(time, device=latents.device).expand(len(latents))
    named = {
        family.embeds: text.embeds,
        family.time: family.denoiser_time(times),  # type: ignore[arg-type]  # a tensor of them
        **call.more(pipe, latents, text.embeds.shape[1]),
    }
    if family.pooled is not None:
        container, _, key = family.pooled.rpartition(".")
        named |= {container: {**named[container], key: text.pooled}} if container else {key: text.pooled}
    given = pipe._pack_latents(latents, *latents.shape) if family.packed else latents
    predicted = (denoiser or subject.denoiser)(given, **named, return_dict=False)[0]
    if not family.packed:
        return predicted
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[2:])
    return pipe._unpack_latents(predicted, height, width, pipe.vae_scale_factor)


def picture_sides(pipe: Any) -> tuple[int, int]:
    """(height, width) of the latents of a picture in the pipeline's own size."""
    config = getattr(pipe, family_of(pipe).denoiser).config
    own = getattr(pipe, "default_sample_size", None) or config.get("sample_size") or USUAL_SIDE // pipe.vae_scale_factor
    height, width = own if isinstance(own, list | tuple) else (own, own)
    return height, width


def first_noise(subject: Subject, seeds: Sequence[int]) -> torch.Tensor:
    """What denoising starts from (B, C, H, W), of a seed each."""
    shape = (subject.pipe.vae.config.latent_channels, *picture_sides(subject.pipe))
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(subject.device, subject.dtype)
