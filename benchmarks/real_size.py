"""One scan step of denoisers with the configurations of SD 1.5, SDXL and Flux.1, random weights: speed doesn't depend
on the values.

On a GPU whole, in half precision, at the best batch. On a CPU the two larger ones are cut down, which each figure's
name says: their figures there tell how a scan step compares with the stacked pass, not how fast the real model is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import Figure, figure, seconds
from probes.model.batches import best_batch

SD15 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
CPU_BATCH, GPU_REPEATS, CPU_REPEATS = 1, 10, 2


@dataclass(frozen=True)
class Model:
    """A denoiser and how to call it on a batch of rows."""

    name: str
    denoiser: torch.nn.Module
    inputs: Callable[[int], dict[str, Any]]

    def forward(self, rows: int) -> None:
        """One call, ended when the device has ended it."""
        with torch.no_grad():
            self.denoiser(**self.inputs(rows))
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def measure() -> list[Figure]:
    """Rows a second of a scan step (conditional rows), and the same prompts as a stacked pass (twice the rows)."""
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if gpu else ("cpu", torch.float32)
    found = []
    for make in (sd15, sdxl, flux):
        model = make(gpu, device, dtype)
        batch = best_batch(model.forward, largest=256) if gpu else CPU_BATCH
        repeats = GPU_REPEATS if gpu else CPU_REPEATS
        where = torch.cuda.get_device_name() if gpu else "CPU"
        label = f"{model.name}, {where}, batch {batch}"
        step = seconds(lambda model=model, batch=batch: model.forward(batch), repeats)
        parameters = sum(weight.numel() for weight in model.denoiser.parameters()) / 1e9
        found.append(figure(f"{label}: parameters", [parameters], "1e9"))
        found.append(figure(f"{label}: prompts a second", [batch / taken for taken in step], "1/s"))
        if make is not flux:  # a distilled model has no unconditional half
            stacked = seconds(lambda model=model, batch=batch: model.forward(2 * batch), repeats)
            ratios = [two / one for one, two in zip(step, stacked, strict=True)]
            found.append(figure(f"{label}: stacked pass takes longer", ratios, "times"))
        if gpu:
            found.append(figure(f"{label}: peak memory", [torch.cuda.max_memory_allocated() / 2**30], "GB"))
            torch.cuda.reset_peak_memory_stats()
        del model
        if gpu:
            torch.cuda.empty_cache()
    return found


def sd15(whole: bool, device: str, dtype: torch.dtype) -> Model:
    """SD 1.5's UNet at 512 px; whole on a CPU too."""
    return _unet("SD 1.5's UNet at 512 px", SD15, device, dtype, lambda rows: {})


def sdxl(whole: bool, device: str, dtype: torch.dtype) -> Model:
    """SDXL's UNet at 1024 px; cut down: half as wide, half as deep in its transformers, 512 px."""
    cut = (
        {}
        if whole
        else {"block_out_channels": (160, 320, 640), "transformer_layers_per_block": (1, 1, 5), "sample_size": 64}
    )
    name = "SDXL's UNet at 1024 px" if whole else "REDUCED: SDXL's UNet, half as wide and deep, at 512 px"

    def more(rows: int) -> dict[str, Any]:
        return {
            "added_cond_kwargs": {
                "text_embeds": torch.randn(rows, 1280, device=device, dtype=dtype),
                "time_ids": torch.zeros(rows, 6, device=device, dtype=dtype),
            }
        }

    return _unet(name, {**SDXL, **cut}, device, dtype, more)


def _unet(
    name: str, config: dict[str, Any], device: str, dtype: torch.dtype, more: Callable[[int], dict[str, Any]]
) -> Model:
    from diffusers import UNet2DConditionModel

    with torch.device(device):
        unet = UNet2DConditionModel(in_channels=4, out_channels=4, **config).to(dtype).eval()

    def inputs(rows: int) -> dict[str, Any]:
        side, width = config["sample_size"], config["cross_attention_dim"]
        return {
            "sample": torch.randn(rows, 4, side, side, device=device, dtype=dtype),
            "timestep": 999,
            "encoder_hidden_states": torch.randn(rows, 77, width, device=device, dtype=dtype),
            **more(rows),
        }

    return Model(name, unet, inputs)


def flux(whole: bool, device: str, dtype: torch.dtype) -> Model:
    """Flux.1's transformer at 1024 px; cut down: 1 of 19 double and 2 of 38 single blocks, 512 px."""
    from diffusers import FluxTransformer2DModel

    cut = {} if whole else {"num_layers": 1, "num_single_layers": 2}
    side, tokens = (64, 512) if whole else (32, 128)
    name = "Flux.1's transformer at 1024 px" if whole else "REDUCED: Flux.1's transformer, 3 of 57 blocks, at 512 px"
    dtype = torch.bfloat16 if whole else dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # twelve billion weights in float32 first wouldn't fit
    try:
        with torch.device(device):
            transformer = FluxTransformer2DModel(**{**FLUX, **cut}).eval()
    finally:
        torch.set_default_dtype(before)

    def inputs(rows: int) -> dict[str, Any]:
        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(rows, *shape, device=device, dtype=dtype)

        return {
            "hidden_states": noise(side * side, 64),
            "encoder_hidden_states": noise(tokens, 4096),
            "pooled_projections": noise(768),
            "timestep": torch.ones(rows, device=device, dtype=dtype),
            "guidance": torch.full((rows,), 3.5, device=device, dtype=dtype),
            "img_ids": torch.zeros(side * side, 3, device=device, dtype=dtype),
            "txt_ids": torch.zeros(tokens, 3, device=device, dtype=dtype),
        }

    return Model(name, transformer, inputs)
