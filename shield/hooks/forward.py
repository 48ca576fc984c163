"""One denoising step as a hook sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from shield.model.conditioning import Conditioning

Rerun = Callable[..., Tensor]


@dataclass
class Forward:
    """One denoising step of B images as the hook sees it: tensors on the pipeline's device, in its dtype and layout.

    `conditioning` is what the conditional rows were given. `rerun(rows, conditioning)` runs the denoiser once more on
    these images with another one and returns their predictions; it is no step of its own. `timestep` (of the
    scheduler) asks about another noise level, `latents` (one for each of these images) about other latents.
    `pipe` is set where questions may be asked (shield/hooks/extra_predictions.py). `attention` has the conditional
    rows' shares per watched layer. `keeps`: the denoiser keeps features for later steps, which are the original
    conditioning's. At the first step `refills` calls fill such a cache anew once the inputs have changed; 0 where
    nothing can. `micro_conditioning` is what SDXL's sizes and crops were; with `other_micro` the unconditional rows had
    others.
    """

    index: int
    timestep: float
    signal: float
    noise: float
    prediction: str
    latents: Tensor
    noise_cond: Tensor
    noise_uncond: Tensor | None
    conditioning: Conditioning
    rerun: Rerun
    attention: dict[str, Tensor] = field(default_factory=dict)
    pipe: Any = None
    keeps: bool = False
    refills: int = 0
    micro_conditioning: tuple[float, ...] = ()
    other_micro: bool = False
