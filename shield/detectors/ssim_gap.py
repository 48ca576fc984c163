"""How alike the prompt's first predictions are from different noises.

A memorized prompt predicts one picture whatever noise it starts from. Hintersdorf et al., "Finding NeMo: Localizing
Neurons Responsible for Memorization in Diffusion Models", NeurIPS 2024 (arXiv 2406.02366): over ten seeds, the highest
structural similarity of two first predictions, without guidance. That is a score of a prompt with its seeds. Here
every image has a score of its own, whatever else is in the batch: its prediction is compared with what the same prompt
predicts from a few further noises, which are fixed and the same for everybody. They cost one extra denoiser call each.

Ours compares predicted clean latents instead of eps - x_T: at the last timestep one is a negative multiple of the
other, and where no signal is left eps is the noise itself, whatever the prompt. SSIM has one scale, since a small
latent has no room for three. Theirs takes the highest pair of ten seeds; ours the highest of the pairs that the image
itself is in and of those among the further noises.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.signals import REDRAWN
from shield.types import Trace

WINDOW, SIGMA, STABLE = 7, 1.5, (0.01**2, 0.03**2)


@dataclass(frozen=True)
class SsimGap:
    """Highest SSIM (-1..1) of two of 1 + `noises` first predictions of a prompt, one of them the image's, per image.

    High also for a prompt that fixes the picture without any copy ("a red square"). Needs latents that are maps (not
    Flux), and a call that starts from noise alone (not from a picture).
    """

    noises: int = 3
    first_k: ClassVar[int] = 1

    name: ClassVar[str] = "ssim_gap"

    @property
    def needs(self) -> frozenset[str]:
        """Predictions from `noises` other noises."""
        return frozenset({"latents", "noise_cond", f"{REDRAWN}{self.noises}"})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when the other predictions weren't recorded or aren't maps."""
        step = trace.first(1)[0]
        steps = (step, *step.asked_redrawn(self.noises))
        maps = [stretched(one.predicted("cond", "x0")) for one in steps]
        return torch.stack([ssim(one, two) for one, two in combinations(maps, 2)]).amax(0).float()


def stretched(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) in float64, each channel from 0 to 1. Raises MissingSignalError for packed latents."""
    if maps.ndim != 4:
        raise MissingSignalError(f"ssim_gap needs latents that are maps; {tuple(maps.shape[1:])} has no rows.")
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-12)).double()


def ssim(one: Tensor, two: Tensor) -> Tensor:
    """Structural similarity (B,) of maps (B, C, H, W) with values 0..1: Gaussian window, mean over places.

    Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13 (2004).
    """
    channels, side = one.shape[1], min(WINDOW, *one.shape[2:])
    places = torch.arange(side, dtype=one.dtype, device=one.device) - (side - 1) / 2
    bell = torch.exp(-places.square() / (2 * SIGMA**2))
    bell = bell / bell.sum()
    kernel = (bell[:, None] * bell[None, :]).expand(channels, 1, side, side)

    def mean(values: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(values, kernel, groups=channels)

    middle, other = mean(one), mean(two)
    spread, another = mean(one.square()) - middle.square(), mean(two.square()) - other.square()
    shared = mean(one * two) - middle * other
    above = (2 * middle * other + STABLE[0]) * (2 * shared + STABLE[1])
    below = (middle.square() + other.square() + STABLE[0]) * (spread + another + STABLE[1])
    return (above / below).mean(dim=(1, 2, 3))
