"""Writes a Stable Diffusion 1 pipeline as one file under CompVis' names, as checkpoints are shared."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

UNET = (
    (r"^time_embedding\.linear_([12])", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"^conv_in", lambda m: "input_blocks.0.0"),
    (r"^conv_norm_out", lambda m: "out.0"),
    (r"^conv_out", lambda m: "out.2"),
    (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.0"),
    (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.1"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 + 3 * int(m[1])}.0.op"),
    (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"^mid_block\.attentions\.0", lambda m: "middle_block.1"),
    (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
    (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
    (r"^up_blocks\.0\.upsamplers\.0\.conv", lambda m: "output_blocks.2.1.conv"),
    (r"^up_blocks\.(\d)\.upsamplers\.0\.conv", lambda m: f"output_blocks.{2 + 3 * int(m[1])}.2.conv"),
)
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE = (
    (r"\.mid_block\.resnets\.(\d)", lambda m: f".mid.block_{int(m[1]) + 1}"),
    (r"\.mid_block\.attentions\.0", lambda m: ".mid.attn_1"),
    (r"\.down_blocks\.(\d)\.resnets", lambda m: f".down.{m[1]}.block"),
    (r"\.down_blocks\.(\d)\.downsamplers\.0", lambda m: f".down.{m[1]}.downsample"),
    (r"\.up_blocks\.(\d)\.resnets", lambda m: f".up.{3 - int(m[1])}.block"),
    (r"\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f".up.{3 - int(m[1])}.upsample"),
    (r"conv_norm_out", lambda m: "norm_out"),
    (r"conv_shortcut", lambda m: "nin_shortcut"),
)
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def compvis_state(pipe: Any) -> dict[str, Tensor]:
    """All weights of a pipeline with SD 1's block structure (four levels, two blocks each), by CompVis' names."""
    found = {f"model.diffusion_model.{_unet_name(n)}": w for n, w in pipe.unet.state_dict().items()}
    for name, weight in pipe.vae.state_dict().items():
        renamed = _vae_name(name)
        linear = ".attn_1." in renamed and weight.ndim == 2  # there they are convolutions of one pixel
        found[f"first_stage_model.{renamed}"] = weight[:, :, None, None] if linear else weight
    for name, weight in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = weight
    return {name: weight.clone().contiguous() for name, weight in found.items()}


def save_compvis(pipe: Any, file: Path, configured: bool = True) -> Path:
    """One file, and beside it the folder of its configuration without any weights."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(compvis_state(pipe), file)
    if configured:
        folder = file.with_suffix("")
        pipe.save_pretrained(folder)
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()
    return file


def _unet_name(name: str) -> str:
    renamed = _first(UNET, name)
    if ".resnets." in name:
        for ours, theirs in UNET_RESNET.items():
            renamed = renamed.replace(f".{ours}.", f".{theirs}.")
    return renamed


def _vae_name(name: str) -> str:
    for pattern, new in VAE:
        name = re.sub(pattern, new, name)
    if ".attn_1." in name:
        for ours, theirs in VAE_ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def _first(table: tuple, name: str) -> str:
    for pattern, new in table:
        renamed, count = re.subn(pattern, new, name)
        if count:
            return renamed
    raise KeyError(name)
