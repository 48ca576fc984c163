"""Prune for the length of a block, or save a pruned checkpoint. The model is bit-equal afterwards in both cases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from probes.errors import MaskError
from probes.pruners.zero_weights import ZeroWeights
from probes.types import Pruner, Subject, UnitMask


@contextmanager
def pruned(
    subject: Subject | torch.nn.Module, mask: UnitMask, pruner: Pruner | None = None
) -> Iterator[torch.nn.Module]:
    """The denoiser with the mask's weights edited inside the block; restored bit for bit, also after an exception.

    ``pruner`` defaults to ``zero_weights``. MaskError, before anything changes, if the mask doesn't fit the model.
    """
    denoiser = subject.denoiser if isinstance(subject, Subject) else subject
    pruner = pruner or ZeroWeights()
    mask.check(denoiser)
    edited = {}
    for path, selected in mask.masks.items():
        weight = weight_of(denoiser, path).detach()
        edited[path] = pruner.edited(weight, selected.to(weight.device))
    with replaced(denoiser, edited):
        yield denoiser


@contextmanager
def replaced(denoiser: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[torch.nn.Module]:
    """The denoiser with other values in the weights of these modules; restored bit for bit, also after an exception."""
    weights = {path: weight_of(denoiser, path) for path in values}
    before = {path: weight.detach().clone() for path, weight in weights.items()}
    try:
        _write(weights, values)
        yield denoiser
    finally:
        _write(weights, before)


def weight_of(denoiser: torch.nn.Module, path: str) -> torch.nn.Parameter:
    """The weight of the module at this path."""
    weight = denoiser.get_submodule(path).weight
    assert isinstance(weight, torch.nn.Parameter)
    return weight


def _write(weights: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for path, value in values.items():
            weights[path].copy_(value)


def save_pruned(subject: Subject, mask: UnitMask, folder: Path, pruner: Pruner | None = None) -> Path:
    """Write the pruned pipeline as a normal diffusers checkpoint; returns ``folder``.

    The mask isn't written into it: who has the mask knows where the memory was, and the checkpoint may be published.
    Zeros give the mask away all the same (probes/attacks/weight_revival.py); ``resample_weights`` leaves none.

    MaskError if the folder exists and isn't empty. A half-written folder never has the final name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MaskError(f"{folder} exists and isn't empty; choose another folder for the pruned checkpoint.")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with pruned(subject, mask, pruner):
        subject.pipe.save_pretrained(part, safe_serialization=True)
    if folder.exists():
        folder.rmdir()
    part.rename(folder)
    return folder
