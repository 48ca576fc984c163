"""The twins' denoiser: SD 1.x topology scaled down, v-prediction with zero terminal SNR.

One shared base learns the world without works; two forks then take the same draws in the same order, one with the
works in their slots (`memorized`), one with fresh pictures there (`clean`). Zero terminal SNR: Lin et al., "Common
Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024 (arXiv 2305.08891); without it the caption does
not decide the layout.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from probes.testbed import pool, world
from probes.testbed.text import WIDTH, tokens
from probes.testbed.training import Loss

CONFIG = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    layers_per_block=2,
    norm_num_groups=8,
    attention_head_dim=4,
    cross_attention_dim=WIDTH,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
CHANNELS = {"cpu": (48, 96, 144, 144), "wide": (64, 128, 192, 192)}
EMPTY_CAPTIONS = 0.1


def new_unet(channels: tuple[int, ...], seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(block_out_channels=channels, **CONFIG)


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Draws:
    """A fork's or the base's draws, by step: latents and captions."""

    def __init__(
        self, order: pool.Order, streams: dict[str, tuple[torch.Tensor, list[str]]], works: list[world.Work], batch: int
    ):
        self._order, self._streams, self._works, self._batch = order, streams, works, batch

    def at(self, step: int, seed: int) -> tuple[torch.Tensor, list[str]]:
        """((B, 4, 16, 16) float32, B captions with a tenth of them empty)."""
        rng = np.random.default_rng([seed, step])
        latents, captions = [], []
        for k in range(step * self._batch, (step + 1) * self._batch):
            stream, index = pool.STREAMS[self._order.stream[k]], int(self._order.index[k])
            picture, caption = self._streams[stream][0][index], self._streams[stream][1][index]
            if stream == "works":
                caption = self._works[index].fill(rng)
            latents.append(picture)
            captions.append("" if rng.uniform() < EMPTY_CAPTIONS else caption)
        return torch.stack(latents).float(), captions


def loss_function(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    draws: Draws,
    seed: int,
    device: str,
) -> Loss:
    """step -> mean squared error of v at uniform timesteps; the text encoder stays frozen."""
    scheduler = new_scheduler()
    text_encoder.requires_grad_(False).eval()

    def loss(step: int) -> dict[str, torch.Tensor]:
        x, captions = draws.at(step, seed)
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        noise = torch.randn(x.shape, generator=generator).to(device)
        t = torch.randint(0, 1000, (len(x),), generator=generator).to(device)
        x = x.to(device)
        with torch.no_grad():
            condition = text_encoder(tokens(tokenizer, captions).to(device)).last_hidden_state
        noisy, target = scheduler.add_noise(x, noise, t), scheduler.get_velocity(x, noise, t)
        return {"loss": torch.nn.functional.mse_loss(unet(noisy, t, condition).sample, target)}

    return loss
