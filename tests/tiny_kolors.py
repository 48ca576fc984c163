"""Kolors at tiny size, with random weights: SDXL's UNet under ChatGLM, whose tokenizer is a sentencepiece model."""

import tempfile
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from diffusers import KolorsPipeline, UNet2DConditionModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from tests.tiny import WIDTH, tiny_scheduler
from tests.tiny_families import tiny_flow_vae
from tests.tiny_transformers import seeded


@cache
def _tokenizer_file() -> str:
    """Letters alone."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-kolors-"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abcdefghijklmnopqrstuvwxyz 0123456789"] * 5),
        model_prefix=str(folder / "tokenizer"),
        model_type="char",
        vocab_size=48,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return str(folder / "tokenizer.model")


@seeded
def tiny_kolors(base: type = KolorsPipeline) -> KolorsPipeline:
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=64,
        hidden_size=WIDTH,
        ffn_hidden_size=32,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=64,
        original_rope=True,
        add_bias_linear=True,
        rmsnorm=True,
    )
    unet = UNet2DConditionModel(
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
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
    )
    encoder = ChatGLMModel(config, empty_init=False)
    for name, weights in encoder.named_parameters():
        if weights.ndim == 1:  # its norms are made empty, for a checkpoint to fill
            torch.nn.init.constant_(weights, float("bias" not in name))
    return base(
        vae=tiny_flow_vae(),
        text_encoder=encoder,
        tokenizer=ChatGLMTokenizer(_tokenizer_file()),
        unet=unet,
        scheduler=tiny_scheduler("epsilon", False),
    )
