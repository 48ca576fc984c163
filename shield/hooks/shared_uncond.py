"""One unconditional prediction for each seed, shared by all prompts: a first-step score at one denoiser evaluation.

Before the first step a picture is noise, and the noise depends on its seed alone. So the unconditional prediction
there, which answers this noise at this timestep without the prompt, is the same for every prompt, and computing it
beside each of them, as guidance does, pays twice. Here the pipeline runs with guidance off (conditional rows alone) and
the missing half is asked for once per seed, through the same hook, on the same denoiser arguments.

It is exact, not an approximation: the denoiser gets the same numbers as in the stacked pass, and what comes out differs
at most by the rounding of a matrix product of another shape. Each seed's is predicted on its own, in a batch of one,
so that it doesn't depend on what else was in the batch, nor on how many workers there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from shield.hooks.forward import Forward
from shield.model.conditioning import Conditioning, null_conditioning
from shield.model.families import family_of
from shield.signals import ENDING, Signals
from shield.types import Detector

# Predictions kept at a time: a quarter of a gigabyte for SDXL's latents in float32.
KEPT = 1024


def shareable(pipe: Any, detectors: Sequence[Detector], guidance_scale: float) -> bool:
    """Whether all of these detectors' scores can be had from conditional rows and one unconditional row a seed.

    They have to read the first step only, and nothing that the unconditional rows are asked about at other noise
    levels; guidance has to be on, in the stacked layout, and its scale must not enter the denoiser.
    """
    family = family_of(pipe)
    embeds_scale = getattr(getattr(pipe, family.denoiser).config, "time_cond_proj_dim", None) is not None
    reads = Signals.named(name for detector in detectors for name in detector.needs)
    return (
        bool(detectors)
        and all(detector.first_k == 1 for detector in detectors)
        and guidance_scale > 1.0
        and family.layout == "stacked"
        and not embeds_scale
        and not reads.extra_calls
        and not any(layer.startswith(ENDING) for layer in reads.layers)
    )


class SharedUncond:
    """Unconditional predictions of one pipeline's first step, by seed; the least recently used are dropped.

    Holds for the weights, schedule and picture size that it was first used with: make a new one when any changes.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._null: Conditioning | None = None
        self._held: OrderedDict[tuple[int, float], torch.Tensor] = OrderedDict()

    def of(self, seeds: Sequence[int]) -> Callable[[Forward], torch.Tensor]:
        """What to give `recorded(extra_uncond=...)` for a batch with these seeds, one for each image."""

        def predict(forward: Forward) -> torch.Tensor:
            places = {seed: place for place, seed in reversed(list(enumerate(seeds)))}
            found = {seed: self._one(forward, seed, place) for seed, place in places.items()}
            return torch.stack([found[seed] for seed in seeds])

        return predict

    def _one(self, forward: Forward, seed: int, place: int) -> torch.Tensor:
        """The prediction (C, ...) for one seed, whose noise is in this row of the batch."""
        key = seed, forward.timestep
        if key not in self._held:
            self._held[key] = forward.rerun([place], self._empty(forward))[0]
        self._held.move_to_end(key)
        prediction = self._held[key]
        if len(self._held) > KEPT:
            self._held.popitem(last=False)
        return prediction

    def _empty(self, forward: Forward) -> Conditioning:
        if self._null is None:
            self._null = null_conditioning(self._pipe, forward.conditioning.embeds.shape[1])
        return self._null
