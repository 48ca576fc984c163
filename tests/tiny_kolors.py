"""Kolors at tiny size, with random weights: SDXL's UNet under ChatGLM, whose tokenizer is a sentencepiece model."""

import tempfile
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from diffusers import KolorsPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from tests.tiny import WIDTH, tiny_scheduler
from tests.tiny_families import tiny_flow_vae, tiny_sdxl_unet
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
def tiny_kolors(base: type = KolorsPipeline, positions: int = 256) -> KolorsPipeline:
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=64,
        hidden_size=WIDTH,
        ffn_hidden_size=32,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=positions,
        original_rope=True,
        add_bias_linear=True,
        rmsnorm=True,
    )
    unet = tiny_sdxl_unet(WIDTH)
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
