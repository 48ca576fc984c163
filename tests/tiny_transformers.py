"""Pipelines with a transformer of their own kind at tiny size, with random weights, made in memory.

See tests/tiny_families.py for SDXL, SD3 and Flux.
"""

from collections.abc import Callable
from functools import wraps

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.tiny import WIDTH, byte_symbols, tiny_scheduler, tiny_sd, tiny_unet, tiny_vae
from tests.tiny_families import tiny_flow_vae, tiny_t5_tokenizer


def seeded(make: Callable) -> Callable:
    """Random weights from `seed`; the global RNG is left as it was."""

    @wraps(make)
    def made(seed: int = 0, **more):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pipe = make(**more)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


@torch.no_grad()
def loud(denoiser: torch.nn.Module, factor: float = 3.0) -> None:
    """Small random layers and gates hardly let the text through; these do, so that prompts make other pictures."""
    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight *= factor


@seeded
def tiny_auraflow() -> AuraFlowPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    loud(transformer)
    config = UMT5Config(vocab_size=len(tiny_t5_tokenizer()), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return AuraFlowPipeline(
        tokenizer=tiny_t5_tokenizer(),
        text_encoder=UMT5EncoderModel(config),
        vae=tiny_flow_vae(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def tiny_chat_tokenizer(tokens: int = 48) -> Qwen2Tokenizer:
    """Single bytes and a few merges, with a chat's frame."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: place for place, word in enumerate([*byte_symbols(), "th", "the", "ca", "cat", *special])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t")],
        model_max_length=tokens,
        additional_special_tokens=special[1:],
    )
    tokenizer.chat_template = (
        "{% for one in messages %}<|im_start|>{{ one['content'] }}<|im_end|>{% endfor %}<|im_start|>"
    )
    return tokenizer


def _qwen3_config(layers: int = 2) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tiny_chat_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=None,
        eos_token_id=None,
    )


@seeded
def tiny_zimage(base: type = ZImagePipeline) -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 4, 8],
        axes_lens=[128, 32, 32],
    )
    for name, weights in transformer.named_parameters():
        if name.endswith("pad_token"):  # made empty, for a checkpoint to fill
            torch.nn.init.normal_(weights, std=0.02)
    loud(transformer)
    return base(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_flow_vae(),
        text_encoder=Qwen3Model(_qwen3_config()),
        tokenizer=tiny_chat_tokenizer(),
        transformer=transformer,
    )


def _flux2_parts(guidance_embeds: bool) -> dict:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    loud(transformer)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=64,
    )
    torch.nn.init.normal_(vae.bn.running_mean, std=0.3)
    return {"scheduler": FlowMatchEulerDiscreteScheduler(), "vae": vae, "transformer": transformer}


@seeded
def tiny_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    """Flux.2 Klein; its text is read at layers 9, 18 and 27 of the text encoder."""
    return Flux2KleinPipeline(
        text_encoder=Qwen3ForCausalLM(_qwen3_config(28)),
        tokenizer=tiny_chat_tokenizer(),
        is_distilled=is_distilled,
        **_flux2_parts(guidance_embeds=False),
    )


@seeded
def tiny_flux2dev() -> Flux2Pipeline:
    """Flux.2 dev without its system message; its text is read at layers 10, 20 and 30 of the text encoder."""
    text = {
        "model_type": "mistral",
        "vocab_size": len(tiny_chat_tokenizer()),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 31,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    tokenizer = tiny_chat_tokenizer()
    tokenizer.chat_template = (
        "{% for one in messages %}<|im_start|>{% for part in one['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>"
        "{% endfor %}"
    )
    pipe = Flux2Pipeline(
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
        **_flux2_parts(guidance_embeds=True),
    )
    pipe.system_message = ""
    return pipe


@seeded
def tiny_sana() -> SanaPipeline:
    """Sana: linear attention, an autoencoder without a posterior."""
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=32,
        patch_size=1,
    )
    loud(transformer)
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    kinds = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock"}
    layers = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1)}
    multiscale = {name.replace("block_types", "qkv_multiscales"): ((), ()) for name in kinds}
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        upsample_block_type="interpolate",
        scaling_factor=0.5,
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        **blocks,
        **kinds,
        **layers,
        **multiscale,
    )
    config = Gemma2Config(
        vocab_size=len(tiny_chat_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return SanaPipeline(
        tokenizer=tiny_chat_tokenizer(),
        text_encoder=Gemma2Model(config),
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def tiny_qwenimage_vae(channels: int = 4) -> AutoencoderKLQwenImage:
    """A video's autoencoder, with statistics in the place of a scaling factor."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0] * (channels // 4),
        latents_std=[1.5, 2.0, 1.0, 1.2] * (channels // 4),
    ).eval()


@seeded
def tiny_qwenimage(base: type = QwenImagePipeline) -> QwenImagePipeline:
    """Qwen-Image with a short frame around its prompts."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    loud(transformer)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tiny_chat_tokenizer()),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    pipe = base(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_qwenimage_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tiny_chat_tokenizer(),
        transformer=transformer,
    )
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "<|im_start|>{}<|im_end|>", 1
    return pipe


@seeded
def tiny_chroma(base: type = ChromaPipeline) -> ChromaPipeline:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    loud(transformer)
    return base(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_flow_vae(),
        text_encoder=tiny_t5(),
        tokenizer=tiny_t5_tokenizer(),
        transformer=transformer,
    )


def tiny_t5() -> T5EncoderModel:
    config = T5Config(vocab_size=len(tiny_t5_tokenizer()), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


@seeded
def tiny_pixart() -> PixArtSigmaPipeline:
    """PixArt Sigma: four channels of latents, eight of predictions."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    loud(transformer)
    return PixArtSigmaPipeline(
        tokenizer=tiny_t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=tiny_vae(),
        transformer=transformer,
        scheduler=tiny_scheduler("epsilon", False),
    )


@seeded
def tiny_lcm(base: type = LatentConsistencyModelPipeline) -> LatentConsistencyModelPipeline:
    """A latent consistency model: the guidance scale is an input of the UNet."""
    parts = dict(tiny_sd("epsilon").components)
    parts["unet"] = tiny_unet(time_cond_proj_dim=16)
    parts["scheduler"] = LCMScheduler(prediction_type="epsilon", clip_sample=False)
    return base(**parts, requires_safety_checker=False)
