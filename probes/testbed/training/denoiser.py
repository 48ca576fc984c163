"""The twins' denoiser: SD 1.x topology scaled down, on 8 channels, v-prediction with zero terminal SNR.

One shared base learns the world without works; two forks then take the same draws in the same order, one with the
works in their slots (`memorized`), one with fresh pictures there (`clean`). Zero terminal SNR: Lin et al., "Common
Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024 (arXiv 2305.08891); without it the caption does
not decide the layout.

Half of the timesteps are drawn toward the middle of the noise scale (logit-normal; Esser et al., "Scaling Rectified
Flow Transformers", ICML 2024, arXiv 2403.03206), where shapes are decided; the other half stay uniform, so that the
pure noise at the end, where the caption decides the layout, is trained as well. Weights that fall to zero there, as
min-SNR's do, would leave it untrained.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel

from probes.testbed.training import pool
from probes.testbed.training.autoencoder import CHANNELS
from probes.testbed.training.text import WIDTH, new_tokenizer, tokens
from probes.testbed.training.trainer import Loss
from probes.testbed.world import Work

CONFIG = dict(
    sample_size=16,
    in_channels=CHANNELS,
    out_channels=CHANNELS,
    layers_per_block=2,
    norm_num_groups=8,
    attention_head_dim=4,
    cross_attention_dim=WIDTH,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
EMPTY_CAPTIONS = 0.1
MIDDLE = 0.5


def new_unet(channels: tuple[int, ...], seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(block_out_channels=channels, **CONFIG).to(memory_format=torch.channels_last)


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
    """Latents and captions by step. A stream starts over when its pool ends."""

    def __init__(
        self, order: pool.Order, streams: dict[str, tuple[torch.Tensor, list[str]]], works: Sequence[Work], batch: int
    ) -> None:
        self._order, self._streams, self._works, self._batch = order, streams, works, batch

    def at(self, step: int, seed: int) -> tuple[torch.Tensor, list[str]]:
        """((B, CHANNELS, 16, 16) float32, B captions with a tenth of them empty)."""
        rng = np.random.default_rng([seed, step])
        latents, captions = [], []
        for k in range(step * self._batch, (step + 1) * self._batch):
            name = pool.STREAMS[self._order.stream[k]]
            pictures, words = self._streams[name]
            index = int(self._order.index[k]) % len(pictures)
            caption = self._works[index].fill(rng) if name == "works" else words[index]
            latents.append(pictures[index])
            captions.append("" if rng.uniform() < EMPTY_CAPTIONS else caption)
        return torch.stack(latents).float(), captions


def timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) in 0..999: MIDDLE of them logit-normal, the rest uniform."""
    middle = torch.sigmoid(torch.randn(count, generator=generator))
    even = torch.rand(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < MIDDLE, middle, even)
    return (1000 * chosen).long().clamp(max=999)


def loss_function(
    model: UNet2DConditionModel, encoder: CLIPTextModel, draws: Draws, seed: int, device: str, half: bool
) -> Loss:
    """step -> mean squared error of v; the text encoder stays frozen.

    `half`: bfloat16 autocast, and attention in plain matrix products, since the fused attention's backward step took
    half of the time in bfloat16 on a CPU (2.5 s a step with it in float32, 1.5 s so). Where there is a C++ compiler,
    `torch.compile` takes another eighth off.
    """
    scheduler, tokenizer = new_scheduler(), new_tokenizer()
    encoder.requires_grad_(False).eval()
    if half and device == "cpu":
        model.set_attn_processor(AttnProcessor())
        if shutil.which("g++"):
            model.compile()

    def loss(step: int) -> dict[str, torch.Tensor]:
        x, captions = draws.at(step, seed)
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        noise = torch.randn(x.shape, generator=generator).to(device)
        t = timesteps(len(x), generator).to(device)
        x = x.to(device)
        with torch.no_grad():
            condition = encoder(tokens(tokenizer, captions).to(device)).last_hidden_state
        noisy, target = scheduler.add_noise(x, noise, t), scheduler.get_velocity(x, noise, t)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            made = model(noisy.contiguous(memory_format=torch.channels_last), t, condition).sample
        return {"loss": torch.nn.functional.mse_loss(made.float(), target)}

    return loss
