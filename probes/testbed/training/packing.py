"""Weights as they are kept: in float16, or in 8 bits where a training only starts from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"
LARGEST = 127


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in float16; others as they are."""
    return {name: (v.half() if v.is_floating_point() else v).contiguous() for name, v in state.items()}


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tables of weights (O, ...) as int8, with a scale for each of their O rows (float32): off by at most half a 127th
    of the row's largest weight. Vectors in float16.
    """
    kept = halved({name: v for name, v in state.items() if not _is_table(v)})
    for name in state.keys() - kept.keys():
        rows = state[name].float().flatten(1)
        scale = rows.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
        whole = (rows / scale[:, None]).round().to(torch.int8)
        kept |= {name: whole.view(state[name].shape).contiguous(), name + SCALE: scale}
    return kept


def unpacked(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 weights of what `halved` or `packed` returned."""
    scales = {name.removesuffix(SCALE): v for name, v in kept.items() if name.endswith(SCALE)}
    state = {}
    for name in kept.keys() - {name + SCALE for name in scales}:
        weights = kept[name].float() if kept[name].is_floating_point() or name in scales else kept[name]
        state[name] = weights * scales[name].view(-1, *[1] * (weights.ndim - 1)) if name in scales else weights
    return state


def _is_table(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 1
