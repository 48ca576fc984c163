"""Tensors in safetensors files: written under a temporary name and renamed, read back with one sentence for damage."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from probes.errors import TensorFileError
from shield.errors import reason_of

Tensors = dict[str, torch.Tensor]


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str] | None = None) -> None:
    """Replace the file in one step; its folder is made. TensorFileError if it can't be written."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            part,
            metadata=dict(header) if header else None,
        )
        part.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise TensorFileError(f"Can't write {path}: {reason_of(error)}. What was written before is kept.") from error


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    """(header, tensors). TensorFileError if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return header, load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise TensorFileError(f"{path} can't be read: {reason_of(error)}. Delete it to have it made again.") from error
