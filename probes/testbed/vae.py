"""The testbed's autoencoder: 128x128x3 -> 16x16x4, AutoencoderKL with four slim levels, trained from scratch.

L1 plus an L1 on picture gradients (edges stay sharp without a discriminator) plus a small KL; latents are scaled to
unit variance afterwards through the scaling factor, as in Stable Diffusion. For the first part of the training the
first three channels are also drawn to the 8x8-averaged colors: the decoder then has something to read from the
first step on (from scratch alone, two cores give 15 dB after 500 steps and crawl), and the latent space stays
smooth. A second pass drops the guide, takes whole pictures and decodes latents with noise on them, since what a
denoiser makes is never exactly what the encoder made.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from probes.testbed import world
from probes.testbed.training import Loss, Schedule, step_generator

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    sample_size=128,
    block_out_channels=(16, 32, 64, 96),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_add_attention=False,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
KL_WEIGHT = 2e-4


def new_vae(seed: int) -> AutoencoderKL:
    """Starts as a nearly linear map (residual branches silent) with a narrow posterior (log-variance about -5):
    branches of normalized noise, and wide posteriors, otherwise drown the picture for hundreds of steps.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL(**CONFIG)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if ".conv2." in name:
                parameter.zero_()
        vae.quant_conv.bias[4:] = -5.0
        vae.quant_conv.weight[4:] *= 0.1
    return vae


def pixels(images: list[Image.Image]) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1]."""
    array = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


GUIDED_SHARE = 0.5  # of the first pass's steps, with a falling weight
CROPS = ((0.3, 32), (0.75, 64), (1.0, 128))  # until this share of the steps, crops of this size; equal pixels per step
LATENT_NOISE = 0.2  # the second pass adds up to this standard deviation, another for each picture


def batch_at(step: int, schedule: Schedule, sprites: world.Sprites, crops: bool) -> torch.Tensor:
    """(B, 3, S, S) pictures of the world; with `crops`, small and many at first: varied colors teach fastest."""
    rng = np.random.default_rng([schedule.seed, step])
    size = next(size for share, size in CROPS if step <= share * schedule.steps) if crops else world.SIZE
    count = schedule.batch * (world.SIZE // size) ** 2
    pictures = pixels([world.draw(rng, sprites).image for _ in range(min(count, 4 * schedule.batch))])
    corners = rng.integers(0, world.SIZE - size + 1, (count, 2))
    return torch.stack([pictures[i % len(pictures), :, y : y + size, x : x + size] for i, (y, x) in enumerate(corners)])


def loss_function(vae: AutoencoderKL, sprites: world.Sprites, schedule: Schedule, device: str, first: bool) -> Loss:
    """step -> losses on a fresh batch of the world, for the first or the second pass."""

    def loss(step: int) -> dict[str, torch.Tensor]:
        x = batch_at(step, schedule, sprites, crops=first).to(device)
        posterior = vae.encode(x).latent_dist
        generator = step_generator(schedule.seed, step, device)
        z = posterior.sample(generator)
        if not first:
            spread = LATENT_NOISE * torch.rand(len(z), 1, 1, 1, generator=generator, device=device)
            z = z + spread * torch.randn(z.shape, generator=generator, device=device)
        y = vae.decode(z).sample
        flat = (y - x).abs().mean()
        sharp = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        psnr = -10 * torch.log10(((y - x) / 2).square().mean())
        values = {"loss": flat + sharp + KL_WEIGHT * kl, "l1": flat, "edges": sharp, "kl": kl, "psnr": psnr}
        if first and (guide := 1 - step / (GUIDED_SHARE * schedule.steps)) > 0:
            guided = (posterior.mean[:, :3] - 2 * torch.nn.functional.avg_pool2d(x, 8)).abs().mean()
            values |= {"loss": values["loss"] + guide * guided, "guided": guided}
        return values

    return loss


@torch.inference_mode()
def set_scale(vae: AutoencoderKL, sprites: world.Sprites, device: str) -> float:
    """Sets scaling_factor so that latents of the world have unit variance; returns it."""
    rng = np.random.default_rng(99)
    x = pixels([world.draw(rng, sprites).image for _ in range(256)]).to(device)
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(32)])
    scale = float(1 / latents.std())
    vae.register_to_config(scaling_factor=scale)
    return scale
