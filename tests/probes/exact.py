"""Bit-exact comparison of models, for tests that nothing was changed."""

import hashlib

import torch


def bits(module: torch.nn.Module) -> str:
    """Sha256 over every bit of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
