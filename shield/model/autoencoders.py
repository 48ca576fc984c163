"""How pipelines hand their latents to the autoencoder: unpacked, scaled, shifted, or with statistics of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shield.model.families import family_of

Form = Callable[[Tensor], Tensor]


def latent_channels(pipe: Any) -> int:
    """C of the latents (B, C, H, W) that a pipeline draws, after unpacking; without an autoencoder, the denoiser's."""
    if pipe.vae is None:
        return int(getattr(pipe, family_of(pipe).denoiser).config.out_channels)
    config = pipe.vae.config
    channels = int(config.get("latent_channels") or config.z_dim)
    return 4 * channels if hasattr(pipe.vae, "bn") else channels


def unpacked(pipe: Any, latents: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) of packed latents (B, tokens, channels); whole ones stay. `size`: the picture's height and width."""
    if latents.ndim == 4:
        return latents
    if hasattr(pipe.vae, "bn"):  # Flux.2 packs places, without their neighbors
        height, width = (int(side) // (2 * pipe.vae_scale_factor) for side in size)
        return latents.transpose(1, 2).unflatten(2, (height, width))
    found = pipe._unpack_latents(latents, *size, pipe.vae_scale_factor)
    return found.squeeze(2) if found.ndim == 5 else found


def packed(pipe: Any, latents: Tensor) -> Tensor:
    """The inverse of `unpacked`: tokens (B, tokens, channels) of latents (B, C, H, W)."""
    if hasattr(pipe.vae, "bn"):
        return latents.flatten(2).transpose(1, 2)
    return pipe._pack_latents(latents, *latents.shape)


def latents_of(pipe: Any, pixels: Tensor) -> Tensor:
    """The inverse of `pixels_of`: what the denoiser of this pipeline works on (B, C, H, W), float32, of pictures
    (B, 3, height, width) from -1 to 1. The mean of the autoencoder's posterior.
    """
    vae = pipe.vae
    given = pixels.to(vae.device, vae.dtype)
    is_video = vae.config.get("scaling_factor") is None and not hasattr(vae, "bn")
    output = vae.encode(given.unsqueeze(2) if is_video else given)
    found = (output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latent).float()
    found = found[:, :, 0] if found.ndim == 5 else found
    if hasattr(vae, "bn"):
        return _normalized(vae, torch.nn.functional.pixel_unshuffle(found, 2))
    if vae.config.get("scaling_factor") is None:
        return _without_statistics(vae.config, found)
    return (found - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


def forms(vae: Any) -> list[Form]:
    """From latents (B, C, H, W) to what this autoencoder decodes, in the ways in which pipelines do it, the usual one
    first; a video's autoencoder takes it as one frame.
    """
    config = vae.config
    if hasattr(vae, "bn"):
        return [lambda latents: _unpatched(_denormalized(vae, latents))]
    has_statistics = config.get("latents_mean") is not None and config.get("latents_std") is not None
    if config.get("scaling_factor") is None:
        return [lambda latents: _with_statistics(config, latents)]
    ways: list[Form] = [lambda latents: latents / config.scaling_factor]
    if config.get("shift_factor"):
        ways.insert(0, lambda latents: latents / config.scaling_factor + config.shift_factor)
    if has_statistics:
        ways.append(lambda latents: _with_statistics(config, latents))
    return ways


def pixels_of(pipe: Any, latents: Tensor) -> Tensor:
    """(B, 3, height, width), about -1 to 1, of (B, C, H, W) latents, or of Flux.2's as it returns and decodes them."""
    is_decodable = hasattr(pipe.vae, "bn") and latents.shape[1] < latent_channels(pipe)
    given = latents if is_decodable else forms(pipe.vae)[0](latents)
    given = given.to(pipe._execution_device, pipe.vae.dtype)
    if pipe.vae.config.get("scaling_factor") is None and not hasattr(pipe.vae, "bn"):
        given = given.unsqueeze(2)  # a video's autoencoder, one frame
    pixels = pipe.vae.decode(given, return_dict=False)[0]
    return pixels[:, :, 0] if pixels.ndim == 5 else pixels


def _with_statistics(config: Any, latents: Tensor) -> Tensor:
    mean, std = _statistics(config, latents)
    return latents * std / config.get("scaling_factor", 1.0) + mean


def _without_statistics(config: Any, latents: Tensor) -> Tensor:
    mean, std = _statistics(config, latents)
    return (latents - mean) / std


def _statistics(config: Any, latents: Tensor) -> list[Tensor]:
    return [torch.tensor(config[f"latents_{of}"]).view(1, -1, 1, 1).to(latents) for of in ("mean", "std")]


def _denormalized(vae: Any, latents: Tensor) -> Tensor:
    mean, spread = _batch_norm(vae, latents)
    return latents * spread + mean


def _normalized(vae: Any, latents: Tensor) -> Tensor:
    mean, spread = _batch_norm(vae, latents)
    return (latents - mean) / spread


def _batch_norm(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = (t.view(1, -1, 1, 1).to(latents) for t in (vae.bn.running_mean, vae.bn.running_var))
    return mean, torch.sqrt(variance + vae.config.batch_norm_eps)


def _unpatched(latents: Tensor) -> Tensor:
    return torch.nn.functional.pixel_shuffle(latents, 2)
