"""Which words of a flagged prompt carry its pull, at the noise that it was scored with."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from probes.drawing.draw import Sampling
from probes.model.generate import generators, quiet
from shield.errors import MissingSignalError
from shield.hooks.forward import Forward
from shield.hooks.intercept import intercepted
from shield.model.conditioning import null_conditioning
from shield.rewriters.attribution import word_weights
from shield.types import MitigationContext, WordWeight


class _Weighed(Exception):
    """Ends a pipeline call once its words are weighed. Never leaves this file."""


def weighed(
    pipe: Any, prompt: str, seed: int, sampling: Sampling, structure: bool = True
) -> tuple[tuple[WordWeight, ...], str | None]:
    """The prompt's words with their shares of the first step's gap; none, and why, where they can't be told.

    ``structure`` leaves out the gap's spatial means, as structure_gap does. Costs the first step, a denoiser call with
    its gradient, and memory for one picture's backward pass.
    """
    found: list[tuple[WordWeight, ...]] = []

    def look(forward: Forward) -> None:
        found.append(word_weights(pipe, prompt, _context(pipe, forward, sampling), forward.noise_uncond, structure))
        raise _Weighed

    try:
        with quiet(pipe), torch.no_grad(), suppress(_Weighed), intercepted(pipe, look):
            pipe(
                prompt=[prompt],
                generator=generators([seed]),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
            )
    except (MissingSignalError, torch.OutOfMemoryError) as error:
        return (), str(error).splitlines()[0]
    return found[0], None


def _context(pipe: Any, forward: Forward, sampling: Sampling) -> MitigationContext:
    return MitigationContext(
        step=0,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        noise_cond=forward.noise_cond,
        noise_uncond=forward.noise_uncond,
        original=forward.conditioning,
        safe=None,
        null=null_conditioning(pipe, forward.conditioning.embeds.shape[1]),
        rerun=lambda conditioning: forward.rerun([0], conditioning),
    )
