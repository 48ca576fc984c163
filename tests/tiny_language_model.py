"""A causal language model at tiny size, with random weights, saved as a folder that transformers loads."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import byte_symbols

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@cache
def tiny_language_model(template: str | None = CHAT) -> str:
    """Path of a folder with a two-layer Llama over bytes and a tokenizer with a chat template (none when None)."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_language_model_"))
    vocab = {symbol: i for i, symbol in enumerate([*byte_symbols(), "<end>"])}
    bytewise = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>", chat_template=template)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(vocab),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=4096,
            eos_token_id=vocab["<end>"],
            bos_token_id=vocab["<end>"],
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
