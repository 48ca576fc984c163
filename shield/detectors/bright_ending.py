"""The noise gap where the picture attends to the end of the text at the last step: copied regions, found and weighed.

At the end of an ordinary generation hardly any attention rests on the end token; where a region was memorized it stays
bright. Chen, Liu, Shah, Xu, "Exploring Local Memorization in Diffusion Models via Bright Ending Attention", ICLR 2025
(arXiv 2410.21665): the attention that the first two cross-attention layers give the end token at the last step is a
soft mask m of what was copied, and LD = mean over steps of ||m * gap|| / mean(m) is the noise gap within it, so that a
small copied region isn't outweighed by the rest. Theirs runs every prompt twice, once for the mask and once for the
gap; ours records both in one run. Theirs takes the prompt's own end token; the denoiser isn't told where that is, so
ours takes the text's last position, which has read the whole prompt too: where the padding repeats the end token (SD
1.x) the two are the same token at different places.

The mask is known at the end alone, so a shield can block or draw again with this detector but not steer; its use is
for scans, and for `region`, the mask itself. Costs no extra call, but needs a whole picture.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.signals import ENDING
from shield.types import Trace

LAYERS = tuple(f"down_blocks.0.attentions.{n}.transformer_blocks.0.attn2" for n in (0, 1))


@dataclass(frozen=True)
class BrightEnding:
    """Mean over steps of the root mean square of m * gap, divided by the mean of m, per image, in units of the latent.

    `first_k` is the number of steps of the whole schedule: with fewer it reads the attention where the ending isn't.
    With an even mask it is the noise gap. `layers` are module paths in a UNet with SD 1.x's names.
    """

    first_k: int = 25
    quantity: str = "x0"
    layers: tuple[str, ...] = LAYERS

    name: ClassVar[str] = "bright_ending"

    @property
    def needs(self) -> frozenset[str]:
        """The gap of every step, and where the layers attend to the last token."""
        return frozenset({"noise_cond", "noise_uncond", *(f"{ENDING}{layer}" for layer in self.layers)})

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32. Raises MissingSignalError when guidance is off or a layer or a step wasn't recorded."""
        gaps = [step.gap(self.quantity) for step in trace.first(self.first_k)]
        mask = region(trace, tuple(gaps[0].shape[2:]), self.first_k, self.layers)
        inside = [(gap * mask[:, None]).flatten(1).pow(2).mean(1).sqrt() for gap in gaps]
        bright = mask.flatten(1).double().mean(1).clamp_min(1e-12)
        return (torch.stack(inside).double().mean(0) / bright).float()


def region(trace: Trace, size: tuple[int, ...], last: int, layers: tuple[str, ...] = LAYERS) -> Tensor:
    """(B, *size) float32: the soft mask of what was copied, the share of attention (0..1) that rests on the ending.

    `size` is (H, W), `last` the number of steps of the schedule. Divide by its largest value to look at it; compare it
    between images as it is. Raises MissingSignalError where nothing was recorded or the places are no map.
    """
    step = trace.first(last)[-1]
    return torch.stack([_map(step.attended(f"{ENDING}{layer}"), size) for layer in layers]).mean(0)


def _map(places: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, H, W) of (B, P), whose places are a map of the same proportions."""
    if len(size) != 2:
        raise MissingSignalError(f"bright_ending needs latents that are maps; {size} has no rows.")
    across = round((places.shape[1] * size[1] / size[0]) ** 0.5)
    if across == 0 or places.shape[1] % across:
        raise MissingSignalError(f"{places.shape[1]} places are no map of the proportions {size[0]} x {size[1]}.")
    maps = places.view(len(places), 1, -1, across)
    return torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0]
