"""Tokenizer, the small OpenCLIP, and its text tower as the `CLIPTextModel` that conditions both twins.

The OpenCLIP is trained first, contrastively, on the whole world (works and non-members included, so that captions
are told apart); its text tower is then frozen. One model serves conditioning, alignment scores and the meaning-
based screen. It is built from open_clip's own classes and loads with
`open_clip.create_model_from_pretrained("local-dir:...")`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from probes.testbed.drawing.vocabulary import vocabulary

CONTEXT = 24
WIDTH, LAYERS, HEADS, EMBED = 128, 4, 4, 128
MEAN = STD = (0.5, 0.5, 0.5)
SPECIALS = ("<|startoftext|>", "<|endoftext|>")


def new_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in CLIP's format whose merges make each word of the world one token; pads with the end token."""
    merges = learn_merges(vocabulary())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), *SPECIALS]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=CONTEXT)


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte pair merges that make each of the words one token: the most frequent pair first, of equals the smallest.

    The tokenizers library breaks ties by a hash that differs from run to run; ids have to be the same everywhere.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(words))]
    merges = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merged(parts, best) for parts in split]
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """The parts with every occurrence of the pair, from the left, made one."""
    made: list[str] = []
    for part in parts:
        if made and (made[-1], part) == pair:
            made[-1] += part
        else:
            made.append(part)
    return made


def openclip_config(vocab_size: int) -> dict:
    """The content of open_clip_config.json."""
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 24, "patch_size": None}
    text = {
        "context_length": CONTEXT,
        "vocab_size": vocab_size,
        "width": WIDTH,
        "heads": HEADS,
        "layers": LAYERS,
        "hf_tokenizer_name": "testbed",
    }
    return {
        "model_cfg": {"embed_dim": EMBED, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def new_openclip(vocab_size: int, seed: int) -> open_clip.CLIP:
    config = openclip_config(vocab_size)["model_cfg"]
    torch.manual_seed(seed)
    text = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}
    return open_clip.CLIP(
        config["embed_dim"], open_clip.CLIPVisionCfg(**config["vision_cfg"]), open_clip.CLIPTextCfg(**text)
    )


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(B, CONTEXT) token ids."""
    return tokenizer(captions, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids


def small_pixels(images: Sequence[Image.Image], size: int = 64) -> torch.Tensor:
    """(B, 3, size, size), what the OpenCLIP's preprocessing makes of pictures."""
    array = np.stack([np.asarray(image.resize((size, size), 3)) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def save_openclip(
    model: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path, dtype: torch.dtype = torch.float16
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(openclip_config(len(tokenizer)), indent=1))
    state = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def text_tower(model: open_clip.CLIP, vocab_size: int) -> CLIPTextModel:
    """The OpenCLIP's text tower as a transformers CLIPTextModel with equal last_hidden_state."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        hidden_act="gelu",
        projection_dim=EMBED,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    tower = CLIPTextModel(config)
    source = model.state_dict()
    ours = tower.state_dict()
    prefix = "text_model." if any(k.startswith("text_model.") for k in ours) else ""
    put = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
    }
    put |= {f"final_layer_norm.{s}": source[f"ln_final.{s}"] for s in ("weight", "bias")}
    for i in range(LAYERS):
        there, here = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for s in ("weight", "bias"):
            thirds = source[f"{there}.attn.in_proj_{s}"].chunk(3)
            put |= {f"{here}.self_attn.{n}_proj.{s}": t for n, t in zip("qkv", thirds, strict=True)}
            put[f"{here}.self_attn.out_proj.{s}"] = source[f"{there}.attn.out_proj.{s}"]
            put[f"{here}.layer_norm1.{s}"] = source[f"{there}.ln_1.{s}"]
            put[f"{here}.layer_norm2.{s}"] = source[f"{there}.ln_2.{s}"]
            put[f"{here}.mlp.fc1.{s}"] = source[f"{there}.mlp.c_fc.{s}"]
            put[f"{here}.mlp.fc2.{s}"] = source[f"{there}.mlp.c_proj.{s}"]
    ours.update({prefix + k: v for k, v in put.items()})
    tower.load_state_dict(ours)
    return tower.eval()
