"""Which weights are these? One hash per denoiser, the same for every dtype that one checkpoint is loaded in."""

import hashlib

import torch
from torch import Tensor, nn

from shield.errors import WeightsError


def model_sha256(module: nn.Module) -> str:
    """Hexadecimal sha256 over the names, shapes and values of a module's parameters.

    Values are taken in bfloat16, so that a float16 checkpoint has one fingerprint in float32, float16 and bfloat16.
    LoRA layers, pruning and fine-tuning change it; offloading and compiling don't. Takes about a second per gigabyte.
    Raises WeightsError for a parameter whose values are nowhere.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{_plain(name)} {tuple(parameter.shape)}\n".encode())
        values = _held(module, name, parameter).detach().to(torch.bfloat16).cpu().contiguous()
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _held(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The parameter, or what accelerate keeps of it while it is moved in only to run."""
    if not parameter.is_meta:
        return parameter
    owner, _, own = name.rpartition(".")
    weights = getattr(getattr(module.get_submodule(owner), "_hf_hook", None), "weights_map", None)
    if weights is None:
        raise WeightsError(f"The values of {name} aren't loaded (meta device), so the model can't be identified.")
    return weights[own]


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile puts in front."""
    return name.removeprefix("_orig_mod.")
