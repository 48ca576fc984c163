"""Pictures from prompts or embeddings, the same for a (prompt, seed) whatever else is in the batch.

Each image has its own CPU generator, so its initial noise depends on its seed alone, on every device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL.Image import Image

from probes.model.batches import in_batches
from probes.model.denoising import call_of, embedding_arguments, packed, picture_sides
from probes.runs.progress import ProgressCallback
from probes.types import Subject
from shield.model.autoencoders import latents_of
from shield.model.conditioning import encoded
from shield.model.families import family_of


class _EnoughSteps(Exception):
    """Ends a pipeline's denoising loop from its own callback."""


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """No progress bar of the pipeline's own inside the block."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each image."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def generate(
    pipe: Any,
    prompts: Sequence[str] | torch.Tensor,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    progress: ProgressCallback | None = None,
) -> list[Image]:
    """One picture for each (prompt, seed). ``prompts`` may also be embeddings (B, T, D).

    Negative prompt: the empty one. ``size``: height and width in pixels, the model's own by default. Raises ValueError
    if there aren't as many seeds as prompts.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"Each picture needs a prompt and a seed; there are {len(prompts)} and {len(seeds)}.")

    def work(numbers: Sequence[int]) -> list[Image]:
        output = pipe(
            **_condition(pipe, prompts, numbers),
            generator=generators([seeds[n] for n in numbers]),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            **size_arguments(size),
        )
        return list(output.images)

    with quiet(pipe), torch.no_grad():
        return in_batches(work, range(len(seeds)), batch_size, progress)


def size_arguments(size: tuple[int, int] | None) -> dict[str, int]:
    """A picture's height and width as arguments of a pipeline's call; none where the model's own are meant."""
    return {} if size is None else {"height": size[0], "width": size[1]}


def _condition(pipe: Any, prompts: Sequence[str] | torch.Tensor, numbers: Sequence[int]) -> dict[str, Any]:
    if isinstance(prompts, torch.Tensor):
        return embedding_arguments(Subject(pipe, ""), prompts[list(numbers)])
    return {"prompt": [prompts[n] for n in numbers]}


def prompts_together(pipe: Any, batch_size: int) -> int:
    """How many prompts may share a call whose layers are watched: one alone where a call fills its rows up to the
    longest one (Z-Image), so that what a layer is given for a prompt doesn't depend on the others.
    """
    return 1 if family_of(pipe).listed else batch_size


def first_steps(
    subject: Subject,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    stop: int,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Run only the first ``stop`` of ``steps`` denoising steps of one batch; ``on_step(k)`` is called after step k.

    For hooks that watch the denoiser. Nothing is decoded.
    """

    def done(step: int) -> None:
        if on_step is not None:
            on_step(step)
        if step + 1 >= stop:
            raise _EnoughSteps

    def after(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        done(step)
        return values

    told: dict[str, Any] = {"callback_on_step_end": after}
    if "callback_on_step_end" not in inspect.signature(subject.pipe.__call__).parameters:  # PixArt
        told = {"callback": lambda step, timestep, latents: done(step), "callback_steps": 1}
    with quiet(subject.pipe), torch.no_grad():
        try:
            subject.pipe(
                prompt=list(prompts),
                generator=generators(seeds),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                output_type="latent",
                **told,
            )
        except _EnoughSteps:
            pass


def encode_prompts(subject: Subject, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (B, T, D), float32, as probes/model/denoising.py packs them. UnsupportedError as there."""
    call_of(subject.pipe)
    return packed(encoded(subject.pipe, list(prompts)))


def encode_pictures(subject: Subject, pictures: Sequence[Image]) -> torch.Tensor:
    """Clean latents (B, C, H, W), float32, scaled as the denoiser expects them: the mean of the VAE's posterior.

    Pictures get the pipeline's own size.
    """
    pipe = subject.pipe
    height, width = (side * pipe.vae_scale_factor for side in picture_sides(pipe))
    pixels = pipe.image_processor.preprocess(list(pictures), height=height, width=width)
    with torch.no_grad(), _exact(pipe.vae):
        return latents_of(pipe, pixels)


@contextmanager
def _exact(vae: Any) -> Iterator[None]:
    """The autoencoder in float32 inside the block, where float16 overflows (SDXL's does)."""
    kept, upcast = vae.dtype, vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    try:
        if upcast:
            vae.to(torch.float32)
        yield
    finally:
        if upcast:
            vae.to(kept)
