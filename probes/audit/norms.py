"""Norms of a localizer in a file: masks for other k are made from them without the model running again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from probes.errors import MaskError, TensorFileError
from probes.localizers import FFNSubspace
from probes.runs.tensors import read_tensors, write_tensors
from shield.errors import reason_of

Norms = dict[str, torch.Tensor]


def joined(norms: Sequence[Norms], sizes: Sequence[int]) -> Norms:
    """Norms of sets of prompts together, (tau, d_ff) for each module: root of the mean of their squares."""
    total = sum(sizes)
    return {
        path: torch.stack([one[path].square() * size for one, size in zip(norms, sizes, strict=True)])
        .sum(dim=0)
        .div(total)
        .sqrt()
        for path in norms[0]
    }


def save_norms(path: Path, localizer: FFNSubspace, target: Norms, base: Norms) -> None:
    """What masks for other k are made from without the model running again; see load_norms."""
    tensors = {f"target/{name}": value for name, value in target.items()}
    tensors |= {f"base/{name}": value for name, value in base.items()}
    write_tensors(path, tensors, {"norms": "1", "localizer": json.dumps(asdict(localizer))})


def load_norms(path: Path) -> tuple[FFNSubspace, Norms, Norms]:
    """The localizer and the norms of its prompts and base. MaskError if the file is missing, damaged or no norms."""
    if not path.is_file():
        raise MaskError(
            f"A sweep needs {path.name}, which diffshield localize writes beside its mask, and there is "
            f"none in {path.parent}."
        )
    try:
        header, tensors = read_tensors(path)
        options = json.loads(header["localizer"])
        localizer = FFNSubspace(**{**options, "base": tuple(options["base"])})
    except (TensorFileError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise MaskError(f"{path} can't be read as norms: {reason_of(error)}") from error
    target, base = (
        {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}
        for part in ("target", "base")
    )
    return localizer, target, base
