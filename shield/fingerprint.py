"""Which weights are these? One hash per denoiser, the same for every dtype that one checkpoint is loaded in."""

import hashlib

import torch
from torch import nn


def model_sha256(module: nn.Module) -> str:
    """Hexadecimal sha256 over the names, shapes and values of a module's parameters.

    Values are taken in bfloat16, so that a float16 checkpoint has one fingerprint in float32, float16 and bfloat16.
    LoRA layers, pruning and fine-tuning change it. Takes about a second per gigabyte.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{_plain(name)} {tuple(parameter.shape)}\n".encode())
        values = parameter.detach().to(torch.bfloat16).cpu().contiguous()
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile puts in front."""
    return name.removeprefix("_orig_mod.")
