"""The testbed's autoencoder: 128x128x3 -> 16x16x8, AutoencoderKL with four slim levels, trained from scratch.

Eight latent channels: four lose what SSCD sees (a work's round trip scored .34), sixteen reconstruct better still but
a denoiser of this size learns them much slower. L1 of pixels and of their gradients plus a small KL; small crops at
first (many steps teach faster than large batches), whole pictures at last. For the first part the channels are drawn
to eight linear readings of each 8x8 block (mean colors, and the first cosines of its brightness), so that the decoder
has something to read from the first step on; with the mean colors alone it stayed at 21 dB for a thousand steps.
Later the latents that it decodes are noisy, since what a denoiser makes is never exactly what an encoder made. Each
channel's mean and deviation then go into the 1x1 convolutions around the latent: a scaling factor of 1 stands for all
of them.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from probes.testbed.drawing.backdrops import SIZE
from probes.testbed.training.rendered import RenderedPictures, pixels
from probes.testbed.training.trainer import Loss, Schedule, step_generator

CHANNELS = 8
CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=CHANNELS,
    sample_size=SIZE,
    block_out_channels=(16, 32, 64, 96),
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_add_attention=False,
    scaling_factor=1.0,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
KL_WEIGHT = 2e-4
GUIDED = 0.3  # of the steps, with a falling weight
CROPS = ((0.35, 32, 8), (0.7, 64, 2), (1.0, SIZE, 1))  # until this share of the steps: side, crops per batch unit
COSINES = ((0, 1, 4.0), (1, 0, 4.0), (1, 1, 6.0), (0, 2, 6.0), (2, 0, 6.0))  # rows, columns, scale to about a half
NOISE, NOISY_FROM = 0.15, 0.4


def new_autoencoder(seed: int) -> AutoencoderKL:
    """Starts as a nearly linear map (residual branches silent) with a narrow posterior (log-variance about -5)."""
    torch.manual_seed(seed)
    model = AutoencoderKL(**CONFIG)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".conv2." in name:
                parameter.zero_()
        model.quant_conv.bias[CHANNELS:] = -5.0
        model.quant_conv.weight[CHANNELS:] *= 0.1
    return model.to(memory_format=torch.channels_last)


def batch_at(step: int, schedule: Schedule, pictures: RenderedPictures, first: bool) -> torch.Tensor:
    """(B, 3, S, S) crops (in the second pass whole pictures) at random, half of them mirrored."""
    rng = np.random.default_rng([schedule.seed, step])
    plan = CROPS if first else CROPS[-1:]
    size, each = next((size, each) for share, size, each in plan if step <= share * schedule.steps)
    count = schedule.batch * each
    rows = zip(
        rng.integers(len(pictures), size=count),
        rng.integers(0, SIZE - size + 1, (count, 2)),
        rng.uniform(size=count) < 0.5,
        strict=True,
    )
    crops = [(pictures.crop(int(i), int(y), int(x), size), flip) for i, (y, x), flip in rows]
    return pixels([crop[:, ::-1] if flip else crop for crop, flip in crops])


def readings(x: torch.Tensor) -> torch.Tensor:
    """(B, 8, H/8, W/8) of (B, 3, H, W): each block's mean colors, then five cosines of its mean channel."""
    wave = lambda k: torch.cos((2 * torch.arange(8, device=x.device) + 1) * k * torch.pi / 16)  # noqa: E731
    basis = torch.stack([scale / 64 * torch.outer(wave(row), wave(column)) for row, column, scale in COSINES])
    detail = torch.nn.functional.conv2d(x.mean(1, keepdim=True), basis[:, None], stride=8)
    return torch.cat([2 * torch.nn.functional.avg_pool2d(x, 8), 2 * detail], 1)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighboring rows, and of neighboring columns."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def loss_function(
    model: AutoencoderKL, pictures: RenderedPictures, schedule: Schedule, device: str, half: bool, first: bool
) -> Loss:
    """step -> losses of the first pass, or of the second, which has neither crops nor readings and noise throughout.

    With `half` the model runs in bfloat16 (twice as fast where the processor has AMX).
    """

    def loss(step: int) -> dict[str, torch.Tensor]:
        x = batch_at(step, schedule, pictures, first).to(device).contiguous(memory_format=torch.channels_last)
        generator = step_generator(schedule.seed, step, device)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            posterior = DiagonalGaussianDistribution(model.encode(x).latent_dist.parameters.float())
            z = posterior.sample(generator).float()
            if not first or step >= NOISY_FROM * schedule.steps:
                spread = NOISE * torch.rand(len(z), 1, 1, 1, generator=generator, device=device)
                z = z + spread * torch.randn(z.shape, generator=generator, device=device)
            y = model.decode(z).sample.float()
        flat = (y - x).abs().mean()
        sharp = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        psnr = -10 * torch.log10(((y - x) / 2).square().mean((1, 2, 3))).mean()
        values = {"loss": flat + sharp + KL_WEIGHT * kl, "l1": flat, "edges": sharp, "kl": kl, "psnr": psnr}
        if first and (guide := 1 - step / (GUIDED * schedule.steps)) > 0:
            guided = (posterior.mean - readings(x)).abs().mean()
            values |= {"loss": values["loss"] + guide * guided, "guided": guided}
        return values

    return loss


@torch.inference_mode()
def encode(model: AutoencoderKL, x: torch.Tensor, batch: int = 32) -> torch.Tensor:
    """(N, CHANNELS, 16, 16) posterior means of (N, 3, SIZE, SIZE) pictures."""
    return torch.cat([model.encode(part).latent_dist.mean for part in x.split(batch)])


@torch.no_grad()
def equalize(model: AutoencoderKL, x: torch.Tensor) -> None:
    """Folds each latent channel's mean and deviation over the pictures `x` into quant_conv and post_quant_conv.

    Afterwards the latents have mean 0 and deviation 1 in each channel, and round trips are what they were.
    """
    latents = encode(model, x).double()
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:CHANNELS] = (into.weight[:CHANNELS].double() / deviation[:, None, None, None]).float()
    into.bias[:CHANNELS] = ((into.bias[:CHANNELS].double() - mean) / deviation).float()
    into.bias[CHANNELS:] -= (2 * deviation.log()).float()
    weight = out.weight.double()
    out.bias += (weight[:, :, 0, 0] @ mean).float()
    out.weight.copy_((weight * deviation[None, :, None, None]).float())
