"""What a hook saw of a step, as the Step that detectors read."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.hooks.extra_predictions import late, redrawn, redraws, shifted
from shield.hooks.forward import Forward
from shield.types import ATTENTION, ENDING, SIGNALS, Step


def _archived(tensor: Tensor | None, channels_last: bool) -> Tensor | None:
    """A float32 copy on the CPU, (B, C, ...). A copy: pipelines and schedulers may write in place."""
    if tensor is None:
        return None
    copied = tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)
    return copied.movedim(-1, 1).contiguous() if channels_last else copied


def watched_layers(needs: Iterable[str]) -> list[str]:
    """Module paths of the cross-attention layers among `needs`; those whose ending is wanted keep their ENDING."""
    return sorted(name.removeprefix(ATTENTION) for name in needs if name.startswith((ATTENTION, ENDING)))


def record(forward: Forward, needs: Iterable[str], channels_last: bool) -> Step:
    """The signals in `needs` as a Step: float32, on the CPU, channels first. What shield/hooks/extra_predictions.py
    asks for costs extra denoiser calls.
    """
    latents, cond, uncond = (
        _archived(getattr(forward, name), channels_last) if name in needs else None for name in SIGNALS[:3]
    )
    shares = {layer: _share(forward, layer).float().cpu() for layer in watched_layers(needs)}
    levels = (forward.index, forward.timestep, forward.signal, forward.noise, forward.prediction)
    step = Step(*levels, latents, cond, uncond, shares)
    if forward.index or forward.pipe is None:
        return step
    asked = (
        late(forward.pipe, forward) if "late" in needs else None,
        shifted(forward.pipe, forward) if "shifted" in needs else None,
    )
    ending, moved = (None if one is None else record(one, SIGNALS[:3], channels_last) for one in asked)
    others = tuple(record(other, SIGNALS[:3], channels_last) for other in redrawn(forward, redraws(needs)))
    return replace(step, late=ending, shifted=moved, redrawn=others)


def _share(forward: Forward, layer: str) -> Tensor:
    if layer not in forward.attention:
        raise MissingSignalError(f"{layer.removeprefix(ENDING)} wasn't seen to run, so its attention isn't known.")
    return forward.attention[layer]
