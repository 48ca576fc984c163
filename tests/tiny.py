"""Real pipelines at tiny size, with random weights, made in memory: no network, under a second."""

import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 16
WIDTH = 16


def byte_symbols() -> list[str]:
    """The 256 printable symbols that byte-level BPE writes bytes with."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = (chr(256 + n) for n in range(256))
    return [chr(b) if b in kept else next(spare) for b in range(256)]


@cache
def tokenizer_folder() -> Path:
    """A folder with vocab.json and merges.txt of a CLIP tokenizer that knows single bytes and a few merges."""
    symbols = byte_symbols()
    merges = ["t h", "th e</w>", "r e", "c a", "ca t</w>", "a n"]
    vocab = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in merges)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder = Path(tempfile.mkdtemp(prefix="tiny_tokenizer_"))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return folder


def tiny_tokenizer(tokens: int = TOKENS) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(tokenizer_folder()), model_max_length=tokens)


def tiny_text_encoder(width: int = WIDTH, tokens: int = TOKENS) -> CLIPTextModel:
    tokenizer = tiny_tokenizer(tokens)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokens,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def tiny_unet(width: int = WIDTH, sample: int = 8, time_cond_proj_dim: int | None = None) -> UNet2DConditionModel:
    """SD 1.x topology: three cross-attention levels, two blocks down and three up, 16 transformer blocks."""
    return UNet2DConditionModel(
        sample_size=sample,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        time_cond_proj_dim=time_cond_proj_dim,
    ).eval()


def tiny_vae() -> AutoencoderKL:
    """8x downsampling to four channels, like SD 1.x."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8),
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
    ).eval()


def tiny_scheduler(prediction_type: str = "v_prediction", zero_snr: bool = True) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tiny_sd(
    prediction_type: str = "v_prediction", zero_snr: bool | None = None, seed: int = 0, sample: int = 8
) -> StableDiffusionPipeline:
    """A Stable Diffusion with 64 x 64 pixel pictures, random float32 weights from `seed`, no safety checker.

    Zero terminal signal by default for v-prediction only, as in real checkpoints. The global RNG is left as it was.
    """
    zero_snr = prediction_type == "v_prediction" if zero_snr is None else zero_snr
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableDiffusionPipeline(
            vae=tiny_vae(),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            unet=tiny_unet(sample=sample),
            scheduler=tiny_scheduler(prediction_type, zero_snr),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
