"""SDXL, SD3, Flux, inpainting and ControlNets at tiny size, with random weights, made in memory. See tests/tiny.py for
Stable Diffusion.
"""

from functools import partial

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny import TOKENS, WIDTH, tiny_scheduler, tiny_sd, tiny_text_encoder, tiny_tokenizer


def tiny_projection_encoder(width: int = WIDTH) -> CLIPTextModelWithProjection:
    config = tiny_text_encoder(width).config.to_dict()
    return CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()


def tiny_flow_vae(channels: int = 4) -> AutoencoderKL:
    """8x downsampling with a shift, like SD3's and Flux's."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8),
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
        shift_factor=0.1,
        scaling_factor=1.5,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def tiny_t5_tokenizer() -> T5Tokenizer:
    letters = [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz,."]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=[], model_max_length=TOKENS)


def tiny_sdxl_unet(width: int) -> UNet2DConditionModel:
    """SDXL's topology, for text of this width and a pooled embedding of WIDTH."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 4 + WIDTH,
        cross_attention_dim=width,
        norm_num_groups=4,
    ).eval()


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """SDXL's two encoders, pooled embeddings and time ids; empty prompts become zeros, as in the real checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = tiny_sdxl_unet(2 * WIDTH)
        pipe = StableDiffusionXLPipeline(
            vae=tiny_flow_vae(),
            text_encoder=tiny_text_encoder(),
            text_encoder_2=tiny_projection_encoder(),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(),
            unet=unet,
            scheduler=tiny_scheduler("epsilon", False),
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd3(seed: int = 0, channels: int = 4) -> StableDiffusion3Pipeline:
    """SD3 without its T5, which the real pipeline allows too; real ones have 16 latent channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=channels,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            out_channels=channels,
            pos_embed_max_size=16,
        ).eval()
        pipe = StableDiffusion3Pipeline(
            vae=tiny_flow_vae(channels),
            text_encoder=tiny_projection_encoder(),
            text_encoder_2=tiny_projection_encoder(),
            text_encoder_3=None,
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(),
            tokenizer_3=None,
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_flux(seed: int = 0, guidance_embeds: bool = True) -> FluxPipeline:
    """Flux: packed latents, distilled guidance, true guidance by separate calls on request."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 4, 8),
        ).eval()
        vocab = len(tiny_t5_tokenizer())
        config = T5Config(vocab_size=vocab, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        pipe = FluxPipeline(
            vae=tiny_flow_vae(),
            text_encoder=tiny_text_encoder(),
            text_encoder_2=T5EncoderModel(config).eval(),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_t5_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_picture(seed: int = 0) -> Image.Image:
    """64 x 64 pixels of smooth colors."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)


def tiny_mask() -> Image.Image:
    """White, so repainted, in its right half."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    return mask


def tiny_variant(base: type, kind: str, seed: int = 0):
    """The pipeline class `base` with the tiny components of its family.

    `kind`: "text" as they are, "inpaint" with a denoiser of nine input channels, "control" with a ControlNet whose
    last layers aren't zero, so that it matters.
    """
    wide = partial(tiny_sd3, channels=16)  # its inpainting takes no other
    families = {"StableDiffusionXL": tiny_sdxl, "StableDiffusion3": wide, "Flux": tiny_flux}
    pipe = next((make for prefix, make in families.items() if base.__name__.startswith(prefix)), tiny_sd)(seed=seed)
    parts = {name: part for name, part in pipe.components.items() if name in base.__init__.__annotations__}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        if kind == "inpaint":
            parts["unet"] = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 9}).eval()
        if kind == "control":
            controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
            parts["controlnet"] = _loud(controlnet)
    more = {"add_watermarker": False, "requires_safety_checker": False}
    made = base(**parts, **{name: value for name, value in more.items() if name in base.__init__.__annotations__})
    made.set_progress_bar_config(disable=True)
    return made


def _loud(controlnet: ControlNetModel) -> ControlNetModel:
    for name, weights in controlnet.named_parameters():
        if name.startswith("controlnet_") and not weights.any():
            torch.nn.init.normal_(weights, std=0.3)
    return controlnet.eval()
