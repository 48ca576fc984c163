"""ESD: what guidance does away from a caption becomes the model's answer to that caption.

Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023, arXiv 2303.07345. With the frozen original
denoiser e and the trained one e',

    L = || e'(x_t, c) - (e(x_t, "") - eta (e(x_t, c) - e(x_t, ""))) ||^2

where x_t is what the trained model makes of noise and caption c up to a random step, with guidance. A concept here is a
memorized caption, and the trained parameters are those of cross-attention (the paper's ESD-x; where text and picture
share their attention, as in SD3 and Flux, the text's own projections). The target's coefficients add up to one, so the
formula reads the same for epsilon, v, flow and clean-latent predictions; only the weight of a timestep differs.
Pictures play no part: neither surrogates nor pairs to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from probes.model.denoising import picture_sides, predict
from probes.model.generate import encode_prompts
from probes.types import Memory, Pair, Subject
from shield.model.prediction import prediction_type

Captions = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class NegativeGuidance:
    """Options: ``eta`` is the strength, ``guidance_scale`` and ``steps`` those of the runs that x_t comes from."""

    name: ClassVar[str] = "negative_guidance"
    trains: ClassVar[str] = r"\.(attn2\.|attn\.(add_|to_add_|norm_added_))"
    has_teacher: ClassVar[bool] = True
    needs_keep: ClassVar[bool] = False

    eta: float = 1.0
    guidance_scale: float = 3.0
    steps: int = 50

    def lesson(self, subject: Subject, memories: Sequence[Memory], number: Callable[[str], int]) -> Captions:
        """Embeddings of the captions and, as often, of the empty prompt, both (B, T, D)."""
        captions = torch.stack([memory.goal.prompt_embeds for memory in memories]).to(subject.device, subject.dtype)
        return captions, encode_prompts(subject, [""]).to(captions).expand_as(captions)

    def loss(
        self,
        subject: Subject,
        teacher: torch.nn.Module | None,
        lesson: Captions,
        keep: Sequence[Pair],
        draw: torch.Generator,
    ) -> torch.Tensor:
        """L of the module's docstring, a scalar."""
        assert teacher is not None
        captions, empty = lesson
        latents, time = self._drawn(subject, captions, empty, draw)
        with torch.no_grad():
            cond, none = (predict(subject, latents, time, embeds, teacher).float() for embeds in lesson)
        ours = predict(subject, latents, time, captions).float()
        return (ours - (none - self.eta * (cond - none))).square().mean()

    def _drawn(
        self, subject: Subject, captions: torch.Tensor, empty: torch.Tensor, draw: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, C, H, W) of the current model at a random step, the same one for all, and its timestep."""
        scheduler = _solver(subject.pipe.scheduler)
        scheduler.set_timesteps(self.steps)
        stop = int(torch.randint(0, self.steps, (1,), generator=draw))
        shape = (subject.pipe.vae.config.latent_channels, *picture_sides(subject.pipe))
        latents = torch.randn(len(captions), *shape, generator=draw).to(captions)
        with torch.no_grad():
            for time in scheduler.timesteps[:stop]:
                both = predict(subject, torch.cat([latents, latents]), time, torch.cat([empty, captions]))
                none, cond = both.chunk(2)
                latents = scheduler.step(none + self.guidance_scale * (cond - none), time, latents).prev_sample
        return latents, scheduler.timesteps[stop]


def _solver(scheduler: Any) -> Any:
    """A plain first-order one for what the scheduler was made for."""
    if prediction_type(scheduler) == "flow":
        return FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, use_dynamic_shifting=False)
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)
